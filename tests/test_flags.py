"""Flags of training: file below, command line above, nothing unknown."""

from __future__ import annotations

from typing import Any

import pytest

from sirl.errors import UserError
from sirl.flags import parse_training

NEEDED = {"model_name_or_path": "m", "dataset_name": "d.jsonl", "output_dir": "out"}


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
        "model_init_kwargs": {"a": 1},
        "run_name": None,
        "max_prompts": 3,
    }
    training = parse_training([], {**NEEDED, **options})
    assert training.config.learning_rate == 1e-4
    assert training.model.use_peft is True
    assert training.model.lora_target_modules == ["q_proj", "v_proj"]
    assert training.config.model_init_kwargs == {"a": 1}
    assert training.data.max_prompts == 3


def test_lists_on_the_command_line() -> None:
    training = parse_training(["--lora_target_modules", "q_proj", "v_proj"], NEEDED)
    assert training.model.lora_target_modules == ["q_proj", "v_proj"]


def test_lora_has_no_dropout_by_default() -> None:
    assert parse_training([], NEEDED).model.lora_dropout == 0


@pytest.mark.parametrize(
    ("argv", "options", "message"),
    [
        (["--max_stepz", "7"], {}, r"--max_stepz is no known flag of sirl train; did you mean --max_steps\?"),
        (["--max_step", "7"], {}, r"--max_step is no known flag"),  # no guessing at shortened flags
        (["stray"], {}, r"stray is no known flag"),
        ([], {"max_stepz": 5}, r"x\.yaml: max_stepz is no known key; did you mean max_steps\?"),
        ([], {"env": {"A": "b"}}, r"x\.yaml: env is no known key"),
        ([], {"help": True}, r"x\.yaml: help is no known key"),
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
