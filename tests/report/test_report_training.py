"""What card and report say of a training is what its manifest and `chosen.json` say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from report_runs import metrics, write_run
from sirl.errors import UserError
from sirl.records import write_json, write_jsonl
from sirl.report.card import render_card
from sirl.report.render import render_html
from sirl.report.training import chosen_on_development, reward_name
from sirl.results.development import Check, Selection
from sirl.results.load import Run, load_run
from sirl.results.summary import results_of

SMALL: dict[str, Any] = {"attacks": None, "benign": None, "gap": None, "gap_samples": None}
DEVELOPMENT = {"goals": "my/dev-goals", "overrefusal": "my/dev-benign", "choose": True}
ROWS = [{"step": s, "dsr": d, "over_refusal": o} for s, d, o in ((0, 0.5, 0.0), (24, 0.9, 0.04), (30, 0.95, 0.2))]


def run_of(folder: Path, chosen: int | None = None, **config: Any) -> Run:
    """A run folder of this configuration; `chosen` is the place of the deployed row."""
    train = {"dataset_name": "demo/train"}
    made = write_run(folder / "run", **SMALL, metrics=metrics(30), manifest={"config": {"train": train, **config}})
    if chosen is not None:
        write_json(made / "chosen.json", {"rule": "the best", "chosen": ROWS[chosen], "last": ROWS[-1]})
    return load_run(made)


@pytest.mark.parametrize(
    ("reward", "words", "notes"),
    [
        (None, "hardened against jailbreaks with", "What SIRL lowers: its reward is minus this."),
        ("entropy", "minus the mean token entropy", "Rises as entropy falls."),
        ("first_k", "minus the mean entropy of the first tokens", "of the first tokens alone"),
        ("neg_entropy", "plus the mean token entropy", "Rises with entropy."),
        ("neg_perplexity", "minus the perplexity", "Rises as the perplexity of the responses falls."),
        ("random", "uniform noise", "Noise: there is nothing to learn from."),
        ("my_own", "only reward is my_own", ""),
    ],
)
def test_the_reward_that_was_used_is_named(tmp_path: Path, reward: str | None, words: str, notes: str) -> None:
    run = run_of(tmp_path, train={"dataset_name": "demo/train", **({"reward": reward} if reward else {})})
    card, page = render_card(run), render_html(run)
    assert words in card
    assert notes in page
    own = reward in (None, "entropy")
    assert ("the model's own certainty (minus the mean token entropy" in card) == own
    assert ("hardened against jailbreaks" in card) == own
    assert ("its reward is minus this" in page) == own
    assert "[SIRL](https://arxiv.org/abs/2510.01088): GRPO" in card


def test_a_training_that_nobody_looked_at_is_a_limit(tmp_path: Path) -> None:
    words = "The last policy was deployed, unseen until then."
    run = run_of(tmp_path)
    assert words in render_card(run)
    assert words in render_html(run)
    write_jsonl(run.path / "development.jsonl", ROWS)
    assert words not in render_card(load_run(run.path))


def test_a_floor_under_the_reward_is_said(tmp_path: Path) -> None:
    card = render_card(run_of(tmp_path, train={"dataset_name": "demo/train", "entropy_floor": 0.9}))
    assert "of its responses), all responses below 0.9 nats alike, on unlabeled prompts" in card


def test_a_price_on_sameness_is_said(tmp_path: Path) -> None:
    card = render_card(run_of(tmp_path, train={"dataset_name": "demo/train", "sameness_weight": 0.5}))
    assert "of its responses) less up to 0.5 nats for what other prompts get too, on unlabeled prompts" in card


@pytest.mark.parametrize(
    ("train", "on"),
    [
        ({}, False),
        ({"retention_dataset_name": "demo/retention"}, True),
        ({"retention_dataset_name": "demo/retention", "retention_weight": 4.0}, True),
        ({"retention_dataset_name": "demo/retention", "retention_weight": 0.0}, False),
        ({"retention_weight": 4.0}, False),
    ],
)
def test_retention_is_told_where_it_was_on(tmp_path: Path, train: dict[str, Any], on: bool) -> None:
    card = render_card(run_of(tmp_path, train={"dataset_name": "demo/train", **train}))
    assert ("kept it close to the base model's answers" in card) == on
    assert ("No retention prompts kept it" in card) != on
    assert ("| weight of retention |" in card) == (on and "retention_weight" in train)


def test_no_judge_took_part(tmp_path: Path) -> None:
    run = run_of(tmp_path, development={**DEVELOPMENT, "choose": False})
    assert not chosen_on_development(run)
    card = render_card(run)
    assert "No labels, reward model or judge took part in training." in card
    assert "| updates made | 30 |" in card
    assert "Choice of the checkpoint" not in card + render_html(run)


def test_a_judge_chose_the_checkpoint(tmp_path: Path) -> None:
    attack = {"goals": "my/goals", "judge": "rubric@m,refusal"}
    run = run_of(tmp_path, chosen=1, development=DEVELOPMENT, attack=attack)
    card, page = render_card(run), render_html(run)
    assert (
        "No labels, reward model or judge took part in training, but the choice of the checkpoint used a judge "
        "(rubric@m) on development prompts." in card
    )
    choice = "by the judge rubric@m on development prompts (goals my/dev-goals, benign my/dev-benign)"
    assert choice in card
    assert choice in page
    assert "| updates made | 24, chosen; training made 30 |" in card
    assert "| rule of the choice | the best |" in card


def test_the_start_was_chosen(tmp_path: Path) -> None:
    card = render_card(run_of(tmp_path, chosen=0, development=DEVELOPMENT))
    assert "| updates made | 0: the choice fell on the model that training began from; training made 30 |" in card


def test_a_rule_cannot_break_the_page(tmp_path: Path) -> None:
    run = run_of(tmp_path, chosen=1)
    card = render_card(replace(run, chosen=Selection(Check(3), "a | b\n# c <script>")))
    assert "a \\| b # c \\<script\\>" in card
    assert "\n# c" not in card
    assert "updates made | 30 |" in render_card(replace(run, chosen=Selection()))
    write_json(run.path / "chosen.json", {"chosen": "nonsense"})
    with pytest.raises(UserError, match=r"chosen\.json: chosen: 'nonsense' is not .*; run its stage again"):
        load_run(run.path)


def test_a_check_of_something_else_is_named(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    write_jsonl(run.path / "development.jsonl", [ROWS[0], {**ROWS[1], "dsr": "high"}])
    with pytest.raises(UserError, match=r"development\.jsonl: line 2: dsr: 'high' is not a number; run its stage"):
        load_run(run.path)


def test_settings_of_sirl_train_and_of_nothing(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    flat = {"dataset_name": "mine.jsonl", "reward": "random", "max_steps": -1, "lora_r": 16, "use_peft": False}
    card = render_card(replace(run, manifest={"config": flat}))
    assert "uniform noise" in card
    assert "| training prompts (unlabeled) | mine.jsonl |" in card
    assert "LoRA rank" not in card
    assert "| updates |" not in card
    unknown = replace(run, manifest=None)
    assert reward_name(None) is None
    assert "does not say with which settings" in render_card(unknown)
    assert "its reward is minus this" not in render_html(unknown)


def test_another_method_is_not_called_sirl(tmp_path: Path) -> None:
    card = render_card(run_of(tmp_path, compare={"method": "dpo", "beta": 0.1}, development=DEVELOPMENT))
    assert "trained by the method dpo of sirl compare" in card
    assert "A judge's verdicts took part in training." in card
    assert "GRPO whose only reward" not in card


def test_names_of_the_data(full_run: Path) -> None:
    run = load_run(full_run)
    config = {"attack": {"goals": "my/goals"}, "evals": {"overrefusal": "my/benign"}}
    named = replace(run, manifest={"config": config})
    assert results_of(named).attack.goals == 100
    for text in (render_card(named), render_html(named)):
        assert "on 100 goals (my/goals), greedy" in text
        assert "150 prompts (my/benign)" in text
    assert "Share that was refused (my/benign)." in render_card(named)
    alone = {"attack_before": {"goals": "a.jsonl"}, "attack_after": {"goals": "a.jsonl"}}
    assert "on 100 goals (a.jsonl), greedy" in render_card(replace(run, manifest={"config": alone}))
