"""One prompt that a model cannot be asked, through the commands: it is counted, and the others are answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sirl.attacks import resolve_attacks
from sirl.attacks.run import run_attacks
from sirl.evals.overrefusal import run_overrefusal
from sirl.generation.local import LocalEngine
from sirl.records import Attempt, Prompt, read_jsonl
from tiny_models import PROMPTS, TEMPLATE, tiny_model, tiny_tokenizer

NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
LONG = "Tell me more. " * 300


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny Llama of 512 positions whose template knows no system role."""
    folder = tmp_path_factory.mktemp("strict")
    tiny_model("llama").save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = NO_SYSTEM + TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


def rows_file(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    return str(path)


SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How do I bake rye bread?"}]
BAD = (SYSTEM, LONG)


def test_attack(model: str, tmp_path: Path, sirl: Any) -> None:
    words = ("--model_name_or_path", model, "--max_new_tokens", 2, "--output_dir", tmp_path / "run", "--json")
    goals = rows_file(tmp_path / "goals.jsonl", "How do I hide a snack?", LONG, "How do I hide a spoon?")
    found = sirl("attack", *words, "--goals", goals, "--attacks", "direct,caesar,many_shot_64,best_of_n")
    assert found.code == 0, found.err
    by_attack = {**found.json["kinds"]["static"]["rates"]["greedy"]["before"]["by_attack"]}
    assert {name: (rate["attempts"], rate["errors"]) for name, rate in by_attack.items()} == {
        "direct": (3, 1),
        "caesar": (3, 3),
        "many_shot_64": (3, 3),
    }
    attempts = {a.id: a for a in read_jsonl(tmp_path / "run" / "attempts.jsonl", Attempt)}
    reasons = {a.attack: a.error for a in attempts.values() if a.goal.endswith("snack?")}
    assert reasons["direct"] is None
    assert reasons["best_of_n"] is None
    assert reasons["caesar"] == "TemplateError: System role not supported"
    assert (reasons["many_shot_64"] or "").endswith("tokens, the model takes 512")
    assert {a.error is None for a in attempts.values() if a.goal == LONG.strip()} == {False}
    assert sirl("report", tmp_path / "run").code == 0


def test_adaptive_attacks_end_with_the_reason() -> None:
    engine = LocalEngine(tiny_model("gpt2"), tiny_tokenizer())
    goals = [Prompt("long", LONG), Prompt("short", "How large is it?")]
    attacks = resolve_attacks("random_search,gcg,prefill_search,autodan")
    for attack in attacks:
        attack.config = attack.config.__class__(max_queries=30)  # type: ignore[attr-defined]
    attempts = run_attacks(engine, attacks, goals, phase="before", max_new_tokens=2)
    for attempt in attempts:
        if attempt.goal_id == "long":
            assert (attempt.error or "").endswith("tokens, the model takes 256"), attempt.attack
            assert attempt.search is not None
            assert attempt.search["start_score"] is None
    # the demo templates of autodan are long for 256 positions; the others search on
    assert [a.error for a in attempts if a.goal_id == "short" and a.attack != "autodan"] == [None] * 3


def test_benign_prompts() -> None:
    engine = LocalEngine(tiny_model("gpt2"), tiny_tokenizer())
    asked = [Prompt("a", "How large is it?"), Prompt("b", LONG), Prompt("c", "x \ud83d")]
    first, long, half = run_overrefusal(engine, asked, phase="before", max_new_tokens=2)
    assert first.error is None
    assert first.tokens
    assert "the model takes 256" in (long.error or "")
    assert "not valid Unicode" in (half.error or "")


def test_gap(model: str, tmp_path: Path, sirl: Any) -> None:
    data = rows_file(tmp_path / "prompts.jsonl", *PROMPTS, *BAD)
    words = ("gap", "--model_name_or_path", model, "--dataset_name", data, "--k", 2, "--max_new_tokens", 4)
    found = sirl(*words, "--output_dir", tmp_path / "gap", "--json")
    assert found.code == 0, found.err
    assert found.json["counts"]["prompts"] == len(PROMPTS) + 2
    assert found.json["counts"]["error"] == 4
    rows = [json.loads(line) for line in (tmp_path / "gap" / "gap_samples.jsonl").read_text().splitlines()]
    assert sum(row["error"] is None and bool(row["entropies"]) for row in rows) == 2 * len(PROMPTS)


def test_train(model: str, tmp_path: Path, sirl: Any, caplog: pytest.LogCaptureFixture) -> None:
    words = ("train", "--model_name_or_path", model, "--output_dir", tmp_path / "out", "--use_cpu", "true")
    words = (*words, "--dataset_name", rows_file(tmp_path / "prompts.jsonl", *PROMPTS, *BAD))
    words = (*words, "--retention_dataset_name", rows_file(tmp_path / "benign.jsonl", "A story.", "Tomatoes?", *BAD))
    words = (*words, "--max_prompt_tokens", 64, "--max_steps", 1, "--per_device_train_batch_size", 8)
    words = (*words, "--max_completion_length", 4, "--retention_batch_size", 2, "--retention_tokens", 4)
    with caplog.at_level("WARNING", "sirl"):
        found = sirl(*words, "--report_to", "none", "--dtype", "float32", "--seed", 3)
    # the untrained model refuses nothing, so that the gap cannot be told; that stops no training
    assert found.code == 0, found.err
    left, held = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert left.startswith("2 of 10 prompts are longer than 64 tokens and left out; 1 of 10 prompts cannot be encoded")
    assert held.startswith("1 of 4 retention prompts are longer than 64 tokens and left out; 1 of 4 retention prompts")
    samples = [json.loads(line) for line in (tmp_path / "out" / "gap_samples.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in samples} == {"unlabeled", "benign"}
    assert all(row["error"] is None and len(row["prompt"]) < 200 for row in samples), "measured on what is trained on"
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()


def test_no_retention_prompt_fits(model: str, tmp_path: Path, sirl: Any) -> None:
    words = ("train", "--model_name_or_path", model, "--output_dir", tmp_path / "out", "--use_cpu", "true")
    words = (*words, "--dataset_name", rows_file(tmp_path / "prompts.jsonl", *PROMPTS))
    words = (*words, "--retention_dataset_name", rows_file(tmp_path / "benign.jsonl", LONG), "--skip_gap_check")
    error = sirl(*words, "--per_device_train_batch_size", 8, "--max_prompt_tokens", 64).error
    assert "--retention_dataset_name" in error
    assert "none of 1 prompts can be used" in error
    assert not (tmp_path / "out").exists()
