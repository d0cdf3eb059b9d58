"""What is a secret, what is none, and that no exit lets one through."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sirl.cli.main import main
from sirl.errors import UserError
from sirl.manifest import Manifest, config_hash
from sirl.records import Completion
from sirl.redaction import is_secret, redact, redact_text
from sirl.report.card import write_card
from sirl.report.render import render_report
from sirl.training import SIRLConfig

S = "s3cr3t-VALUE"
HF, SK = "hf_" + "aB3dE" * 7, "sk-" + "aB3dE" * 8
NAMES = (
    "hub_token", "HF_TOKEN", "token", "api_key", "OPENAI_API_KEY", "apiKey", "api-key", "aws_secret_access_key",
    "secret", "client_secret", "password", "db_password", "train.hub_token", "--hub-token", "passwd", "credentials",
    "Authorization",
)  # fmt: skip
PLAIN = (
    "max_new_tokens", "retention_tokens", "tokens", "token_ids", "pad_token", "eos_token", "max_prompt_tokens",
    "reward_tokens", "tokenizer_name_or_path", "monkey", "keys", "num_tokens", "stop_token_ids", "keyword", "secretary",
    "include_num_input_tokens_seen",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)
    assert redact({name: S, "other": {name: [S]}}) == {name: "***", "other": {name: "***"}}
    for text in (f"{name}={S}", f'{name}="{S} {S}"', f"{{'{name}': '{S}', 'a': 1}}", f"{{a: 1, {name}: {S}}}"):
        assert S not in redact_text(text), text
    assert S not in str(redact(["sirl", "run", "--set", f"{name}={S} with spaces"]))
    flag = "--" + name.strip("-")
    assert redact(["sirl", flag, S, "--seed", "1"]) == ["sirl", flag, "***", "--seed", "1"]
    assert redact_text(f"sirl run {flag} {S} --seed 1") == f"sirl run {flag} *** --seed 1"


@pytest.mark.parametrize("name", PLAIN)
def test_names_of_other_things(name: str) -> None:
    assert redact({name: 7, "x": {name: "seven"}}) == {name: 7, "x": {name: "seven"}}
    assert redact(["--" + name, "7", f"{name}=7"]) == ["--" + name, "7", f"{name}=7"]


@pytest.mark.parametrize(
    "text",
    [
        f"http://user:{S}@host/v1",
        f"rubric@https://{S}@host:8000/v1#org/model",
        f"http://user:{S}/more@host/v1",
        f"https://host/v1?api_key={S}&x=1",
        f"https://host/v1?x=1&token={S}#model",
        f"Authorization: Bearer {S}1234",
        f"cannot reach http://u:{S}@h (timeout)",
    ],
)
def test_addresses_and_headers(text: str) -> None:
    assert S not in redact_text(text)
    assert redact_text(redact_text(text)) == redact_text(text)


@pytest.mark.parametrize("secret", [HF, SK, "ghp_" + "a1" * 18, "AKIA" + "A1" * 8, "hf_SECRET", "sk-SECRET1"])
@pytest.mark.parametrize("text", ["{}", "export X {}", "model {} of", "['{}']", "x={}"])
def test_what_looks_like_a_secret(secret: str, text: str) -> None:
    assert secret not in redact_text(text.format(secret))


@pytest.mark.parametrize(
    "text",
    [
        "http://localhost:8000/v1",
        "rubric@http://localhost:8000/v1#org/model@rev",
        "--set: expected KEY=VALUE, got 'a'",
        "train.hub_token: expected text, got 5",
        "runs/hf_model/sk-learn and hf_transfer, me@example.org",
        "demo/train,demo/train-wrapped",
        "a risk-taking-behaviour-of-long-names-1234567",
        "no known key: max_stepz",
    ],
)
def test_what_is_none(text: str) -> None:
    assert redact_text(text) == text


def test_redaction_is_fast() -> None:
    units = ("key=", "--a-key ", "http://", "hf_A", "'token': ", "a.b-", "://u:", "bearer ", "a_key", "sk-", "{x: ")
    for unit in units:
        start = time.perf_counter()
        redact_text(unit * 5000)
        assert time.perf_counter() - start < 1


CONFIG = {
    "model_name_or_path": "org/model",
    "train": {"dataset_name": "d.jsonl", "hub_token": S, "max_steps": 3, "run_name": f"x {HF}"},
    "attack": {"judge": f"refusal,rubric@http://me:{S}@host/v1#m", "attacker_engine": f"https://host/v1?api_key={S}"},
}
COMMAND = [
    *("sirl", "run", "--set", f"train.hub_token={S}", "--hub_token", S, "--engine", f"http://u:{S}@h/v1", f"K={SK}")
]


def leaks(folder: Path) -> list[str]:
    secrets = [word.encode() for word in (S, HF, SK)]
    return [p.name for p in folder.rglob("*") if p.is_file() and any(s in p.read_bytes() for s in secrets)]


def test_manifest_report_and_card(tmp_path: Path) -> None:
    manifest = Manifest.open(tmp_path, config=CONFIG, seed=0, command=COMMAND)
    (tmp_path / "model").mkdir()
    render_report(tmp_path)
    write_card(tmp_path)
    assert leaks(tmp_path) == []
    config = manifest.data["config"]
    assert config["train"] == {**CONFIG["train"], "hub_token": "***", "run_name": "x ***"}  # type: ignore[dict-item]
    assert config["attack"]["judge"] == "refusal,rubric@http://***@host/v1#m"


def test_a_manifest_of_an_earlier_version_is_shown_without(tmp_path: Path) -> None:
    Manifest.open(tmp_path, config={"a": 1}, seed=0, command=["sirl"])
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "config": CONFIG, "command": COMMAND}))
    (tmp_path / "model").mkdir()
    render_report(tmp_path)
    write_card(tmp_path)
    assert leaks(tmp_path) == ["manifest.json"]
    assert Manifest.read(tmp_path) is not None


def test_a_run_goes_on_with_another_key_and_nothing_else(tmp_path: Path) -> None:
    Manifest.open(tmp_path, config=CONFIG, seed=0, command=COMMAND)
    other = {**CONFIG, "train": {**CONFIG["train"], "hub_token": "another"}}  # type: ignore[dict-item]
    assert config_hash(other) == config_hash(CONFIG)
    Manifest.open(tmp_path, config=other, seed=0, command=COMMAND)
    other["train"]["max_steps"] = 4  # type: ignore[index]
    with pytest.raises(UserError, match=r"train\.max_steps differ"):
        Manifest.open(tmp_path, config=other, seed=0, command=COMMAND)


def test_stages_that_are_joined(tmp_path: Path) -> None:
    for stage in ("attack_before", "eval"):
        for _ in range(2):
            Manifest.open_stage(tmp_path, stage, CONFIG, seed=0, command=COMMAND)
            with pytest.raises(KeyboardInterrupt), Manifest.read(tmp_path).stage(stage):  # type: ignore[union-attr]
                raise KeyboardInterrupt
    assert leaks(tmp_path) == []


def test_error_lines_and_logs(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    assert main(["run", "--config", "demo", "--set", f"train.hub_token=[{S}"]) == 2
    assert (
        main(["attack", "--model_name_or_path", "m", "--engine", f"http://u:{S}@127.0.0.1:9/v1", "--output_dir", out])
        == 2
    )
    assert main(["run", "--config", str(tmp_path / f"{HF}.yaml")]) == 2
    logging.getLogger("sirl.test").warning("cannot reach %s", f"http://u:{S}@h")
    said = capfd.readouterr().err
    assert said.count("sirl: error: ") == 3
    assert S not in said
    assert HF not in said


def test_errors_of_servers() -> None:
    assert S not in str(Completion.failed(f"APIError: no route to http://u:{S}@h/v1").error)


def test_the_trainer_saves_no_token(tmp_path: Path) -> None:
    config: Any = SIRLConfig(output_dir=str(tmp_path), hub_token=S, use_cpu=True, report_to="none")
    assert config.hub_token == S
    torch.save(config, tmp_path / "training_args.bin")
    assert leaks(tmp_path) == []
    again = torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert (again.hub_token, again.num_generations) == (None, config.num_generations)
