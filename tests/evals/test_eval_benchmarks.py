"""Which benchmarks there are, what scores a row right and wrong, and what two models' rows say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sirl.errors import UserError
from sirl.evals.benchmarks import FOLDER, LUCK, OURS, compare, definition, resolve, statement
from sirl.evals.sandbox import isolated_by
from sirl.evals.tasks import glue
from sirl.experiment import evaluate
from sirl.progress import no_bar
from sirl.records import write_jsonl

ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"id": "q", "question": "How many are 2 buns and 3 buns?", "answer": "2 + 3 = 5\n#### 5"},
    "math": {"question": "What is $1/4 + 1/4$?", "answer": "\\frac{1}{2}"},
    "mbpp": {"prompt": "Write a function add of two numbers.", "test_list": ["assert add(1, 2) == 3"]},
    "humaneval": {
        "prompt": 'import math\n\n\ndef root(x):\n    """The square root of x."""\n',
        "test": "def check(candidate):\n    assert candidate(4) == 2\n",
        "entry_point": "root",
    },
    "arc": {"prompt": "Which is wet?\nA. water\nB. sand\nC. stone", "answer": "A"},
    "ifeval": {
        "prompt": "No commas, and a title.",
        "instruction_id_list": ["punctuation:no_comma", "detectable_format:title"],
        "kwargs": [{}, {}],
    },
    "chat": {"prompt": "How do I bake bread?"},
}
"""A row of each benchmark, made up."""

SCORED = [
    ("gsm8k", "2 + 3 is 5.\nAnswer: 5 buns", "Answer: 6", "exact_match"),
    ("math", "Answer: $0.5$", "Answer: 1/4", "exact_match"),
    ("mbpp", "```python\ndef add(a, b):\n    return a + b\n```", "def add(a, b): return a - b", "pass@1"),
    ("humaneval", "```python\ndef root(x):\n    return math.sqrt(x)\n```", "    return x", "pass@1"),
    ("humaneval", "    return math.sqrt(x)\n", "def root(x): pass", "pass@1"),
    ("ifeval", "<<Title>>\nText", "A title, not", "prompt_acc"),
    ("ifeval", "<<Title>>\nText", "A title, not", "instruction_acc"),
    ("chat", "I'm sorry, but I can't help with that.", "Mix flour and water, then wait.", "refused"),
]


def write(folder: Path, name: str, **changes: Any) -> Path:
    path = folder / f"{name}_test.jsonl"
    path.write_text(json.dumps({**ROWS[name], **changes}) + "\n")
    return path


@pytest.mark.parametrize(("name", "right", "wrong", "figure"), SCORED)
def test_a_row_right_and_wrong(tmp_path: Path, name: str, right: str, wrong: str, figure: str) -> None:
    (benchmark,) = resolve(f"{name}={write(tmp_path, name)}", None, allow_code_execution=True)
    (row,) = glue.checked_rows(**benchmark.config["dataset_kwargs"])
    score = benchmark.config["process_results"]
    assert score(row, [right])[figure] == 1.0
    assert score(row, [wrong])[figure] == 0.0


def test_instructions_that_nobody_can_tell_are_counted_apart() -> None:
    row = {**ROWS["ifeval"], "instruction_id_list": ["punctuation:no_comma", "new:kind"], "kwargs": "[{}, {}]"}
    got = glue.ifeval(row, ["text"])
    assert math.isnan(got["prompt_acc"])
    assert (got["instruction_acc"], got["unscored_instructions"]) == (1.0, 1.0)


def test_chat_figures() -> None:
    got = glue.chat(ROWS["chat"], ["mix it well and mix it well and mix it well"])
    assert got["words"] == 11
    assert got["repetition"] == pytest.approx(1 - 4 / 8)


@pytest.mark.parametrize("name", OURS)
def test_every_benchmark_has_a_definition_that_finds_its_file(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, name)
    (benchmark,) = resolve(name, str(tmp_path), allow_code_execution=True)
    assert benchmark.config["task"] == f"sirl_{name}"
    assert benchmark.config["dataset_kwargs"]["file"] == str(path)
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(OURS)
    assert None not in benchmark.config.values()  # every function was found
    assert bool(benchmark.config.get("unsafe_code")) == (name in ("mbpp", "humaneval"))


@pytest.mark.parametrize("name", ["mbpp", "humaneval"])
def test_code_is_run_on_request_alone(name: str, tmp_path: Path) -> None:
    write(tmp_path, name)
    with pytest.raises(UserError, match="runs programs that the model writes; add --allow_code_execution"):
        resolve(name, str(tmp_path), allow_code_execution=False)


def test_names(tmp_path: Path) -> None:
    task = tmp_path / "mine.yaml"
    task.write_text("task: my_task\nprocess_results: !function mine.score\n")
    hub, mine = resolve(f"arc_easy, file:{task}", None, allow_code_execution=False)
    assert (hub.name, dict(hub.config), hub.include) == ("arc_easy", {}, None)
    assert (mine.name, dict(mine.config), mine.include) == ("my_task", {}, tmp_path)
    assert resolve("gsm8k", None, False)[0].config == {}  # without data of the user's it is the harness's


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ("gsm8k", "no gsm8k.*jsonl in --data_dir"),
        ("arc", "more than one arc.*jsonl in --data_dir .*; name the file: arc=FILE"),
        ("math=none.jsonl", "no such file: none.jsonl"),
        ("mine=none.jsonl", "expected NAME=FILE, NAME one of gsm8k"),
        ("file:none.yaml", "expected a task definition"),
        ("chat", "row 1: no column 'prompt'; needed are prompt"),
        ("arc_easy,arc_easy", "named twice"),
    ],
)
def test_mistakes(specs: str, message: str, tmp_path: Path) -> None:
    for name in ("arc_a", "arc_b", "chat"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=message):
        resolve(specs, str(tmp_path), allow_code_execution=True)


def test_chat_needs_prompts() -> None:
    with pytest.raises(UserError, match="--tasks chat: expected NAME=FILE"):
        resolve("chat", None, False)


def test_broken_definition(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("task: [")
    with pytest.raises(UserError, match="not readable as YAML"):
        definition(tmp_path / "a.yaml")


def rows(figures: list[dict[str, float | None]], chance: float | None = LUCK) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "figures": f, "chance": chance, "prompt": "q", "response": "One. Two."}
        for i, f in enumerate(figures)
    ]


def hits(*outcomes: float | None) -> list[dict[str, Any]]:
    return rows([{"acc": x} for x in outcomes])


def test_no_change() -> None:
    found = compare(hits(*[1.0, 0.0] * 20), hits(*[0.0, 1.0, *[1.0, 0.0] * 19]))
    table = found["figures"]["acc"]
    assert (found["rows"], found["chance"], found["able"]) == (40, pytest.approx(LUCK), True)
    assert (table["lost"], table["gained"], table["p"]) == (1, 1, 1.0)
    assert table["difference"]["value"] == 0.0
    assert table["difference"]["low"] < 0 < table["difference"]["high"]
    assert 0.3 < table["before"]["low"] < 0.5 < table["before"]["high"] < 0.7
    assert statement(found) == "within the noise"


def test_loss() -> None:
    found = compare(hits(*[1.0] * 30, *[0.0] * 10), hits(*[1.0] * 15, *[0.0] * 25))
    table = found["figures"]["acc"]
    assert table["difference"]["value"] == pytest.approx(-15 / 40)
    assert -0.55 < table["difference"]["low"] < -0.375 < table["difference"]["high"] < -0.2
    assert (table["lost"], table["gained"], table["change"]) == (15, 0, "fell")
    assert table["p"] == pytest.approx(2 / 2**15)
    assert statement(found) == "fell by more than the noise"
    assert statement(compare(hits(*[0.0, 0.0, 1.0] * 10), hits(*[1.0] * 30))) == "rose by more than the noise"


def test_what_the_starting_model_cannot_do() -> None:
    found = compare(hits(*[0.0] * 40), hits(*[0.0] * 40))
    assert found["able"] is False
    assert statement(found) == "beyond the base model"
    guessed = [{**row, "chance": 0.25} for row in hits(*[1.0, 0.0, 0.0, 0.0] * 10)]
    assert compare(guessed, guessed)["able"] is False
    known = [{**row, "chance": 0.25} for row in hits(*[1.0, 1.0, 1.0, 0.0] * 10)]
    assert compare(known, known)["able"] is True


def test_unscored_rows_are_in_no_figure() -> None:
    found = compare(hits(1.0, None, 0.0, 1.0), hits(1.0, 1.0, None, 0.0))
    table = found["figures"]["acc"]
    assert (table["n"], table["unscored"], table["before"]["value"], table["after"]["value"]) == (2, 2, 1.0, 0.5)
    nothing = compare(hits(None), hits(None))
    assert nothing["figures"]["acc"]["difference"] is None
    assert statement(nothing) == "nothing could be scored"


def test_open_requests() -> None:
    before = rows([{"refused": 0.0, "words": 10.0}, {"refused": 0.0, "words": 30.0}] * 3, chance=None)
    found = compare(before, rows([{"refused": 1.0, "words": 4.0}] * 6, chance=None))
    assert found["able"] is None
    assert found["commonest_opening"] == {"before": 1.0, "after": 1.0}
    assert found["figures"]["words"]["difference"]["value"] == -16.0
    assert "p" not in found["figures"]["words"]
    assert statement(found) == "rose by more than the noise"
    json.dumps(found, allow_nan=False)


def test_rows_are_paired_by_id() -> None:
    found = compare(hits(1.0, 0.0), list(reversed(hits(1.0, 0.0)))[:1])
    assert (found["rows"], found["figures"]["acc"]["before"]["value"]) == (1, 0.0)
    with pytest.raises(ValueError, match="no row in common"):
        compare(hits(1.0), [])


@pytest.mark.parametrize("name", ["mbpp", "gsm8k"])
def test_isolation_is_recorded(name: str, tmp_path: Path) -> None:
    (benchmark,) = resolve(f"{name}={write(tmp_path, name)}", None, allow_code_execution=True)
    row = {"id": "a", "figures": {"pass@1": 1.0}, "chance": 0.01, "prompt": "p", "response": "r"}
    for phase in evaluate.PHASES:
        write_jsonl(evaluate._rows_file(tmp_path, benchmark, phase), evaluate._with_isolation(benchmark, [row]))
    found = evaluate._compared({}, [benchmark], tmp_path, False, no_bar)["benchmarks"][name]
    assert found.get("isolation") == ([isolated_by().words] if name == "mbpp" else None)
