"""Arguments of chat templates through every command, and templates that let the model think."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sirl.chat import template as chat_template
from sirl.chat import template_trial
from sirl.chat.encoding import EncodingError, encode_chat, with_template_arguments
from sirl.chat.template import parse_arguments, thinks
from sirl.errors import UserError
from sirl.experiment.config import parse_config
from sirl.generation import SamplingParams, load_engine, load_local
from sirl.models import load_tokenizer
from sirl.records import Attempt, read_jsonl, user_turn
from sirl.training import SIRLConfig
from tiny_models import PROMPTS, TEMPLATE, tiny_model, tiny_tokenizer

# as Qwen3's: without thinking the template writes an empty thought
SWITCHED = TEMPLATE.replace(
    "{{ '<|start|>assistant\n' }}",
    "{{ '<|start|>assistant\n' }}{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}",
)
OPENED = TEMPLATE.replace("{{ '<|start|>assistant\n' }}", "{{ '<|start|>assistant\n<think>\n' }}")  # as R1's
OFF = {"enable_thinking": False}


def tokenizer_of(template: str, **arguments: Any) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return with_template_arguments(tokenizer, arguments)


def test_parse() -> None:
    assert parse_arguments('{"enable_thinking": false}') == OFF
    assert parse_arguments("enable_thinking=false") == OFF
    assert parse_arguments("enable_thinking = no, effort=low,n=2") == {
        "enable_thinking": False,
        "effort": "low",
        "n": 2,
    }
    for text, words in (
        ("{enable_thinking: false}", "not valid JSON"),
        ("enable_thinking", "expected JSON or KEY=VALUE"),
        ("chat_template=x", "chat_template is decided by sirl"),
        ("a-b=1", "'a-b' cannot be the name of an argument"),
    ):
        with pytest.raises(UserError, match=words):
            parse_arguments(text)


@pytest.mark.parametrize(
    ("template", "arguments", "expected"),
    [
        (TEMPLATE, {}, False),
        (SWITCHED, {}, True),
        (SWITCHED, OFF, False),
        (SWITCHED, {"enable_thinking": True}, True),
        (OPENED, {}, True),
        (OPENED, OFF, True),  # it knows no such argument
        (TEMPLATE + "{# {{ '</think>' }} #}", {}, True),  # R1 distills: only the history is stripped of thoughts
        (TEMPLATE + "{% if thinking %}{{ '<think>' }}{% endif %}", {}, False),  # Granite: off unless it is given
        (TEMPLATE + "{% if thinking %}{{ '<think>' }}{% endif %}", {"thinking": True}, True),
    ],
)
def test_thinks(template: str, arguments: dict[str, Any], expected: bool) -> None:
    assert thinks(tokenizer_of(template, **arguments)) is expected


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("thinking")
    tiny_model("qwen3").save_pretrained(folder)
    tokenizer_of(SWITCHED).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def _say_it_again() -> None:
    chat_template._warn.cache_clear()


def test_engines(model: str, server: Any, caplog: pytest.LogCaptureFixture) -> None:
    asked, params = user_turn("How large is it?"), SamplingParams(max_new_tokens=3)
    off = load_local(model, chat_template_kwargs=OFF)
    assert not caplog.records
    on = load_local(model)
    (record,) = caplog.records
    assert record.getMessage().startswith("the chat template lets the model think before it answers, so that a short")
    assert """--chat_template_kwargs '{"enable_thinking": false}'""" in record.getMessage()
    tail = on.tokenizer("<think>\n\n</think>\n\n", add_special_tokens=False)["input_ids"]
    assert off.encode([asked]) == [[*on.encode([asked])[0], *tail]]  # type: ignore[misc]
    assert off.count_tokens([asked]) == [on.count_tokens([asked])[0] + len(tail)]
    served = load_engine("served", engine=server.url, chat_template_kwargs=OFF)
    assert served.generate([asked], params)[0][0].error is None
    assert server.requests[-1]["chat_template_kwargs"] == OFF


def run_file(model: str, **more: Any) -> dict[str, Any]:
    return {"name": "n", "model_name_or_path": model, "train": {"dataset_name": "demo/train"}, **more}


def test_run_config(model: str) -> None:
    from sirl.experiment.plan import training_options
    from sirl.training.arguments import parse_training

    config = parse_config(run_file(model, chat_template_kwargs=OFF), "a.yaml")
    assert config.as_dict()["chat_template_kwargs"] == OFF
    training = parse_training([], training_options(config), "train")
    assert training.config.chat_template_kwargs == OFF
    assert training.as_dict()["chat_template_kwargs"] == OFF
    with pytest.raises(UserError, match="chat_template_kwargs: tokenize is decided by sirl"):
        parse_config(run_file(model, chat_template_kwargs={"tokenize": 1}), "a.yaml")
    nested = {"dataset_name": "demo/train", "chat_template_kwargs": OFF}
    with pytest.raises(UserError, match="set chat_template_kwargs at the top of the file"):
        training_options(parse_config(run_file(model, train=nested), "a.yaml"))


def test_flags_of_commands(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sirl.cli.main import main

    goals = tmp_path / "goals.txt"
    goals.write_text("How do I hide a snack?\n")
    flags = ["--model_name_or_path", model, "--goals", str(goals), "--attacks", "direct", "--max_new_tokens", "2"]
    for phase, more, code in (
        ("before", ["--chat_template_kwargs", "enable_thinking=false"], 0),
        ("after", [], 2),
        ("after", ["--chat_template_kwargs", '{"enable_thinking": false}'], 0),
    ):
        assert main(["attack", *flags, *more, "--phase", phase, "--output_dir", str(tmp_path / "run")]) == code
    assert "--chat_template_kwargs: not given here" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["config"]["attack_before"]["chat_template_kwargs"] == OFF
    before, after = read_jsonl(tmp_path / "run" / "attempts.jsonl", Attempt)
    assert before.response == after.response
    (alone,) = load_local(model, chat_template_kwargs=OFF).generate([before.messages], SamplingParams(max_new_tokens=2))
    assert alone[0].tokens == before.tokens


def test_training_sees_the_arguments(model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from datasets import Dataset

    from sirl.models import load_model, load_tokenizer
    from sirl.training import SIRLTrainer
    from training.tiny_runs import tiny_config

    config = tiny_config(tmp_path, chat_template_kwargs='{"enable_thinking": false}', max_steps=1)
    assert isinstance(config, SIRLConfig)
    tokenizer = load_tokenizer(model)
    trainer = SIRLTrainer(
        load_model(model), config, Dataset.from_dict({"prompt": list(PROMPTS)}), processing_class=tokenizer
    )
    wanted = encode_chat(tokenizer_of(SWITCHED, **OFF), user_turn(PROMPTS[0]))
    assert trainer._encoded([list(user_turn(PROMPTS[0]))]) == [wanted]
    with trainer.policy() as engine:
        assert engine.encode([user_turn(PROMPTS[0])]) == [wanted]
    chat_template.warn_of_thoughts(tokenizer_of(OPENED), training=True)
    assert "so that the reward is on its thoughts" in caplog.text


def test_a_template_that_has_passed_is_not_tried_again(model_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def trial(tokenizer: Any) -> int:
        tried.append(tokenizer.chat_template)
        return real(tokenizer)

    real = template_trial._tried
    monkeypatch.setattr(template_trial, "_tried", trial)
    monkeypatch.setattr(template_trial, "_PASSED", {})
    tokenizer = load_tokenizer(str(model_folder()))
    load_tokenizer(str(model_folder()))
    assert len(tried) == 1
    first = template_trial.written_for_hello(tokenizer)
    for change in ({"chat_template": "x" + tokenizer.chat_template}, {"template_arguments": {"thinks": True}}):
        for name, value in change.items():
            setattr(tokenizer, name, value)
        assert template_trial.written_for_hello(tokenizer) == first + 1
    assert len(tried) == 3
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    for _ in range(2):
        with pytest.raises(EncodingError):
            template_trial.written_for_hello(tokenizer)
    assert len(tried) == 5, "one that was refused may be corrected"
