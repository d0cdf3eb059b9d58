"""A GGUF file in place of a model folder, in the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sirl.cli.main import main
from sirl.weights.hashes import sha256
from tiny_gguf import write_gguf


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIRL_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def prompts(path: Path, start: str, n: int = 4) -> str:
    path.write_text("\n".join(f"{start} number {i}?" for i in range(n)) + "\n")
    return str(path)


def test_a_run(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the file to the report: `base/` holds the model, and the manifest the file's SHA-256."""
    config = tmp_path / "run.yaml"
    goals, benign = prompts(tmp_path / "goals.txt", "Goal"), prompts(tmp_path / "benign.txt", "Question")
    config.write_text(
        json.dumps(
            {
                "name": "packed",
                "model_name_or_path": str(file),
                "output_dir": str(tmp_path / "run"),
                "gap": {"max_prompts": 2, "k": 2, "max_new_tokens": 4, "required": False},
                "train": {
                    "dataset_name": prompts(tmp_path / "train.txt", "Train"),
                    "max_steps": 1,
                    "use_peft": True,
                    "lora_target_modules": "all-linear",
                    "max_completion_length": 4,
                    "num_generations": 2,
                    "per_device_train_batch_size": 4,
                    "gradient_accumulation_steps": 1,
                    "report_to": "none",
                },
                "attack": {"attacks": ["direct"], "goals": goals, "max_new_tokens": 4, "decoding": ["greedy"]},
                "evals": {"overrefusal": benign, "max_new_tokens": 4},
            }
        )
    )
    assert main(["run", "--config", str(config), "--json"]) == 0
    capsys.readouterr()
    run = tmp_path / "run"
    assert (run / "base" / "model.safetensors").is_file()
    assert (run / "model" / "chat_template.jinja").is_file()
    source = json.loads((run / "manifest.json").read_text())["sources"]["base"]["model"]
    assert source == {"name": str(file), "kind": "gguf", "revision": None, "commit": None, "sha256": sha256(file)}
    assert sha256(file) in (run / "report.html").read_text()
    assert sha256(file) in (run / "model" / "README.md").read_text()


def test_gap_and_training(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    goals, model = prompts(tmp_path / "goals.txt", "Goal"), str(file)
    assert main(["gap", "--model_name_or_path", model, "--dataset_name", goals, "--max_new_tokens", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"]
    words = "--max_steps 1 --max_completion_length 4 --num_generations 2 --per_device_train_batch_size 4 --use_peft"
    out = str(tmp_path / "out")
    flags = ["--dataset_name", goals, "--output_dir", out, "--skip_gap_check", *words.split(), "--report_to", "none"]
    assert main(["train", "--model_name_or_path", model, *flags]) == 0
    assert (
        json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
        == model
    )
    # an adapter on a file is a model as well
    adapter = str(tmp_path / "out" / "adapter")
    assert main(["gap", "--model_name_or_path", adapter, "--dataset_name", goals, "--max_new_tokens", "4"]) == 0


def test_a_revision_of_a_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gap", "--model_name_or_path", str(file), "--model_revision", "v1"]) == 2
    assert "is not a hub id, and only hub ids have versions; leave it out" in capsys.readouterr().err


def test_one_line_for_a_damaged_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(file.read_bytes()[:900])
    assert main(["gap", "--model_name_or_path", str(file)]) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith(f"sirl: error: --model_name_or_path {file}: is incomplete or damaged (")
    assert err.endswith("; get the file again")
    assert "\n" not in err
