"""Flags of training: file below, command line above, nothing unknown."""

from __future__ import annotations

from typing import Any

import pytest
from trl.scripts._hf_argparser import string_to_bool

from sirl.cli import train
from sirl.errors import UserError
from sirl.inputs.yaml_text import parse_yaml
from sirl.training.arguments import TrainingParser, _as_flags, parse_training

NEEDED = {"model_name_or_path": "m", "dataset_name": "d.jsonl", "output_dir": "out"}


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["q_proj,v_proj"], ["q_proj", "v_proj"]),
        (["q_proj,v_proj", "o_proj"], ["q_proj", "v_proj", "o_proj"]),
        ([".*[qv]_proj{1,2}"], ".*[qv]_proj{1,2}"),
        (["all-linear"], "all-linear"),
    ],
)
def test_modules_are_divided_by_commas_or_blanks(words: list[str], read: object) -> None:
    training = parse_training(["--use_peft", "--lora_target_modules", *words], NEEDED)
    assert training.model.lora_target_modules == read


def test_flags_win_over_the_file() -> None:
    training = parse_training(["--max_steps", "7"], {**NEEDED, "max_steps": 5, "num_generations": 2})
    assert (training.config.max_steps, training.config.num_generations) == (7, 2)
    assert (training.model.model_name_or_path, training.data.dataset_name) == ("m", "d.jsonl")


def test_values_as_yaml_gives_them() -> None:
    options = {
        "learning_rate": "1e-4",  # YAML reads this as text
        "use_peft": True,
        "lora_target_modules": ["q_proj", "v_proj"],
        "report_to": ["none"],
        "lr_scheduler_kwargs": {"a": 1},
        "run_name": None,
        "max_prompts": 3,
    }
    training = parse_training([], {**NEEDED, **options})
    assert training.config.learning_rate == 1e-4
    assert training.model.use_peft is True
    assert training.model.lora_target_modules == ["q_proj", "v_proj"]
    assert training.config.lr_scheduler_kwargs == {"a": 1}
    assert training.data.max_prompts == 3


def test_lists_on_the_command_line() -> None:
    training = parse_training(["--use_peft", "--lora_target_modules", "q_proj", "v_proj"], NEEDED)
    assert training.model.lora_target_modules == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("given", "read"), [("q_proj", ["q_proj"]), ("all-linear", "all-linear"), (".*_proj", ".*_proj")]
)
def test_one_target_module(given: str, read: Any) -> None:
    """PEFT takes a word alone for a pattern of whole names, which no module has."""
    assert parse_training(["--use_peft", "--lora_target_modules", given], NEEDED).model.lora_target_modules == read


def test_lora_has_no_dropout_by_default() -> None:
    assert parse_training([], NEEDED).model.lora_dropout == 0


@pytest.mark.parametrize(
    ("argv", "options", "message"),
    [
        (["--max_stepz", "7"], {}, r"--max_stepz is not a known flag of sirl train; did you mean --max_steps\?"),
        (["--max_step", "7"], {}, r"--max_step is not a known flag"),  # no guessing at shortened flags
        (["stray"], {}, r"stray is not a known flag"),
        ([], {"max_stepz": 5}, r"x\.yaml: max_stepz is not a known key; did you mean max_steps\?"),
        ([], {"env": {"A": "b"}}, r"x\.yaml: env is not a known key"),
        ([], {"help": True}, r"x\.yaml: help is not a known key"),
        ([], {"max_steps": "five"}, r"--max_steps.*invalid int value: 'five'"),
        ([], {"dtype": "float8"}, r"--dtype: invalid choice: 'float8'"),
        (["--max_steps"], {}, r"--max_steps.*expected one argument"),
        ([], {"num_generations": 1}, r"--num_generations 1: .* give 2 or more"),
        ([], {"reward": "praise"}, r"--reward praise: unknown"),
        ([], {"max_prompts": 0}, r"--max_prompts: must be 1 or more"),
        ([], {"num_generations": 8, "per_device_train_batch_size": 3}, r"divisible by num_generations"),
        ([], {"load_in_4bit": True, "load_in_8bit": True}, r"sirl train: You can't use 8 bit and 4 bit"),
    ],
)
def test_mistakes(argv: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_training(argv, {**NEEDED, **options}, "x.yaml")
    assert "\n" not in str(caught.value)


def test_as_dict_is_json_and_the_same_each_time() -> None:
    first, second = (parse_training([], {**NEEDED, "max_steps": 3}).as_dict() for _ in range(2))
    assert first == second
    assert (first["max_steps"], first["dataset_name"], first["use_peft"]) == (3, "d.jsonl", False)


def test_no_secret_in_as_dict() -> None:
    assert "s3cret" not in str(parse_training(["--hub_token", "s3cret"], NEEDED).as_dict())


def own(options: dict[str, Any], argv: list[str] | None = None) -> Any:
    """As `sirl train` parses a file, with its own flags."""
    parser = TrainingParser()
    train._add_own(parser)
    return parse_training(argv or [], {**NEEDED, **options}, "x.yaml", parser)


SWITCHES = ("skip_gap_check", "overwrite", "json")


@pytest.mark.parametrize(
    "text", ["true", "yes", "on", "True", "'true'", "'yes'", "1", "false", "no", "off", "'no'", "0"]
)
def test_switches_as_yaml_has_them(text: str) -> None:
    on = text.strip("'").lower() in ("true", "yes", "on", "1")
    names = (*SWITCHES, "use_peft", "log_completions", "gradient_checkpointing", "remove_unused_columns")
    training = own(parse_yaml("".join(f"{name}: {text}\n" for name in names)))
    assert [getattr(training.rest, name) for name in SWITCHES] == [on] * 3
    assert training.model.use_peft == on
    config = training.config
    assert [config.log_completions, config.gradient_checkpointing, config.remove_unused_columns] == [on] * 3


def test_every_switch_takes_both() -> None:
    parser = TrainingParser()
    train._add_own(parser)
    switches = {
        a.dest: f"--{a.dest}" for a in parser._actions if a.type is string_to_bool and f"--{a.dest}" in a.option_strings
    }
    assert len(switches) > 50
    for value in (True, False):
        words = _as_flags(parser, dict.fromkeys(switches, value), "x.yaml")
        assert words == [f"{flag}={value}" for flag in switches.values()]


def test_nothing_leaves_the_default() -> None:
    nothing = own(dict.fromkeys((*SWITCHES, "max_steps", "bf16", "max_prompts", "learning_rate", "output_dir")))
    default = own({})
    assert [getattr(nothing.rest, name) for name in SWITCHES] == [False] * 3
    assert nothing.config.max_steps == default.config.max_steps
    assert nothing.config.learning_rate == default.config.learning_rate


def test_the_command_line_wins_over_a_switch_of_the_file() -> None:
    assert own({"use_peft": True}, ["--use_peft=false"]).model.use_peft is False
    assert own({}, ["--skip_gap_check"]).rest.skip_gap_check is True


@pytest.mark.parametrize("key", ["dataset_name", "retention_dataset_name"])
def test_a_list_for_a_flag_with_commas(key: str) -> None:
    assert getattr(own({key: ["a.jsonl", "org/name:config@split"]}).data, key) == "a.jsonl,org/name:config@split"


def test_words_that_yaml_takes_for_something_else() -> None:
    training = own(parse_yaml("eval_strategy: no\nsave_strategy: off\nrun_name: 2024-05-06\nlearning_rate: 1e-4\n"))
    assert (training.config.eval_strategy, training.config.save_strategy) == ("no", "no")
    assert training.config.run_name == "2024-05-06"
    assert training.config.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip_gap_check": "maybe"}, r"x\.yaml: skip_gap_check: expected true or false, got 'maybe'"),
        ({"use_peft": 2}, r"x\.yaml: use_peft: expected true or false, got 2"),
        ({"use_peft": [True]}, r"x\.yaml: use_peft: expected true or false, got \[True\]"),
        ({"dataset_name": True}, r"x\.yaml: dataset_name: expected a text, got true \(YAML reads yes"),
        ({"max_steps": True}, r"x\.yaml: max_steps: expected a number, got true"),
        ({"max_steps": [3]}, r"x\.yaml: max_steps: expected one value, got a list"),
        ({"output_dir": {"a": "b"}}, r"x\.yaml: output_dir: expected one value, got a mapping"),
        ({"dataset_name": [["a"]]}, r"x\.yaml: dataset_name: expected one value, got a list"),
        ({"lora_target_modules": [None]}, r"x\.yaml: lora_target_modules: expected one value, got null"),
        ({"config": "other.yaml"}, r"x\.yaml: config is not a known key"),
    ],
)
def test_values_that_a_flag_cannot_take(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        own(options)
    assert "\n" not in str(caught.value)
