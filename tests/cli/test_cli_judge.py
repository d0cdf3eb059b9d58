"""`sirl judge`: labels for responses from anywhere, and agreement with people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sirl.judges.validate import agreement, cohen_kappa

REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "Sure. First, take two cups of flour. Then add water."


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [
        {"prompt": "p", "response": REFUSAL, "label": "2_full_refusal", "source": "a"},
        {"response": ANSWER, "label": "full_compliance", "source": "a"},
        {"response": ANSWER, "label": "full_refusal", "source": "b"},
    ]
    return write(tmp_path / "r.jsonl", rows)


def test_labels(sirl: Any, file: Path) -> None:
    found = sirl("judge", file, "--json").json
    assert found["labels"] == {"full_refusal": 1, "partial_refusal": 0, "full_compliance": 2, "empty": 0, "unscored": 0}
    assert [v["label"] for v in found["verdicts"]] == ["full_refusal", "full_compliance", "full_compliance"]
    assert found["refusal_rate"] == pytest.approx(1 / 3)
    assert found["interval"][0] < 1 / 3 < found["interval"][1]


def test_output_file_keeps_the_rows(sirl: Any, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out.jsonl"
    assert sirl("judge", file, "--output_file", out).code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["source"], r["label"]) for r in rows] == [
        ("a", "full_refusal"),
        ("a", "full_compliance"),
        ("b", "full_compliance"),
    ]
    assert rows[0]["human_label"] == "2_full_refusal"


def test_validate_by_source(sirl: Any, file: Path) -> None:
    found = sirl("judge", file, "--validate", "--json").json
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["by_source"]["a"]["accuracy"] == 1
    assert found["by_source"]["b"]["accuracy"] == 0
    assert found["confusion"]["full_refusal"]["full_compliance"] == 1
    assert "accuracy" in sirl("judge", file, "--validate").out


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("", (), "is empty"),
        ("[]\n", (), "is empty"),
        ('{"prompt": "x"}\n', (), "row 1: no text under `response`"),
        ('{"response": 5}\n', (), "row 1: no text under `response`"),
        ('{"response": "x", "prompt": 1}\n', (), "row 1: `prompt` is not text"),
        ('{"response": "x"}\nnot json\n', (), "line 2: not valid JSON"),
        ('{"response": "x", "label": "rude"}\n', ("--validate",), "row 1: `label` is 'rude'; expected one of"),
        ('{"response": "x"}\n', ("--validate",), "row 1: `label` is None; expected one of"),
        ('{"response": "x", "label": 1}\n', ("--validate",), "row 1: `label` is 1; expected one of"),
        ('{"response": "x"}\n', ("--judge", "solomon"), "solomon"),
    ],
)
def test_bad_input(sirl: Any, tmp_path: Path, text: str, flags: tuple[str, ...], message: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(text)
    assert message in sirl("judge", path, *flags).error


def test_missing_file(sirl: Any) -> None:
    assert "no such file: nowhere.jsonl" in sirl("judge", "nowhere.jsonl").error


def test_output_over_input(sirl: Any, file: Path) -> None:
    before = file.read_text()
    assert "--output_file" in sirl("judge", file, "--output_file", file).error
    assert file.read_text() == before


def test_kappa_by_hand() -> None:
    # 10 pairs; both say r 4 times, both c 3 times: p_o = 0.7. First says r 6 of 10, second 5: p_e = 0.3 + 0.2 = 0.5
    pairs = [("r", "r")] * 4 + [("c", "c")] * 3 + [("r", "c")] * 2 + [("c", "r")]
    assert cohen_kappa(pairs) == pytest.approx((0.7 - 0.5) / 0.5)


def test_kappa_where_it_is_undefined() -> None:
    assert cohen_kappa([]) is None
    assert cohen_kappa([("r", "r")] * 3) is None


def test_unscored_is_left_out_and_counted() -> None:
    found = agreement(["full_refusal"] * 3, ["full_refusal", "unscored", "full_compliance"], ["s"] * 3)
    assert (found["n"], found["unscored"], found["accuracy"]) == (2, 1, 0.5)
    assert found["confusion"]["full_refusal"]["unscored"] == 1
    assert found["by_source"] == {}


def test_what_people_call_partial_is_out_of_the_two_way_comparison() -> None:
    human = ["full_refusal", "partial_refusal", "full_compliance"]
    found = agreement(human, ["full_refusal", "full_refusal", "full_compliance"], ["s"] * 3)
    assert found["refusal_or_not"] == {"n": 2, "accuracy": 1.0, "kappa": 1.0}


def test_a_judge_that_says_partial_is_wrong_in_the_two_way_comparison() -> None:
    human = ["full_refusal"] * 2 + ["full_compliance"] * 2
    found = agreement(human, ["full_refusal", "partial_refusal", "full_compliance", "partial_refusal"], ["s"] * 4)
    # p_o = 2 / 4; by chance both say refusal 2 * 1 / 16 of the time, both say compliance as often: p_e = 1 / 4
    assert found["refusal_or_not"] == {"n": 4, "accuracy": 0.5, "kappa": pytest.approx(1 / 3)}


def test_nothing_scored() -> None:
    found = agreement(["full_refusal"], ["unscored"], ["s"])
    assert (found["accuracy"], found["kappa"], found["n"]) == (None, None, 0)


def test_empty_cells_of_pandas_become_null(sirl: Any, tmp_path: Path) -> None:
    file, out = tmp_path / "nan.jsonl", tmp_path / "out.jsonl"
    file.write_text(f'{{"prompt": "a", "response": "{REFUSAL}", "context": NaN, "tags": [1e999]}}\n')
    assert sirl("judge", file, "--output_file", out).code == 0
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert (row["label"], row["context"], row["tags"]) == ("full_refusal", None, [None])


def test_a_file_that_is_cut_is_not_judged(sirl: Any, tmp_path: Path) -> None:
    file = tmp_path / "cut.jsonl"
    file.write_text(f'{{"response": "{REFUSAL}"}}\n{{"response": "Sure, here is how. First, take the"')
    result = sirl("judge", file, "--json")
    assert result.code == 2
    assert result.err.startswith(f"sirl: error: FILE: {file}, line 2: not valid JSON")


def test_output_file_that_is_a_folder(sirl: Any, file: Path, tmp_path: Path) -> None:
    """Told before a judge has worked for hours, and with no traceback."""
    for name in (tmp_path, "."):
        result = sirl("judge", file, "--output_file", name)
        assert (result.code, "--output_file: " in result.error, "is a folder" in result.error) == (2, True, True)


def test_output_file_behind_a_link(sirl: Any, file: Path, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "rows.jsonl")
    assert sirl("judge", file, "--output_file", tmp_path / "link").code == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "rows.jsonl").read_text().count("\n") == file.read_text().count("\n")
