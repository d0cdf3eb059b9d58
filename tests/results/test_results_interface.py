"""`summary.json` is an interface: described, checked, and read in the shape of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from report_runs import attempt, write_run
from sirl.errors import UserError
from sirl.results.interface import VERSION, Summary, made, read_summary, schema
from sirl.results.summary import build_summary

ROOT = Path(__file__).parent.parent.parent
WITHOUT_VERSION = {
    "dsr_before": 0.5,
    "dsr_after": 0.75,
    "dsr_covers": "static",
    "worst_case_dsr_after": None,
    "plain_refusal_before": 0.0,
    "reduction": {"successes_before": 4, "successes_after": 2, "factor": 2.0, "low": 1.1, "high": 3.9},
    "kinds": {"static": {"attacks": ["dan"], "dsr_before": 0.5, "interval": [0.1, 0.4], "test": "goals"}},
    "gap": {"verdict": "present", "difference": 1.5, "low": 1.0, "high": 2.0},
    "seconds": {"gap": 3.5},
    "base": "/runs/a/base",
}
"""What runs wrote before there were versions: with fewer keys."""


def wrapped_run(folder: Path) -> Path:
    rows = [attempt("dan", f"g{i}", phase) for i in range(3) for phase in ("before", "after")]
    return write_run(folder, wrapped=rows)


def test_the_schema_in_the_docs_is_that_of_the_code() -> None:
    found = json.loads((ROOT / "docs" / "summary.schema.json").read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(schema()))
    jsonschema.Draft202012Validator.check_schema(found)


@pytest.mark.parametrize("make", [write_run, wrapped_run])
def test_what_a_run_writes_is_as_described(tmp_path: Path, make: Any) -> None:
    summary = json.loads(json.dumps(build_summary(make(tmp_path / "run"))))
    jsonschema.validate(summary, schema())
    assert summary["version"] == VERSION
    assert summary["dsr_after"] is not None
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert read_summary(tmp_path / "summary.json").to_dict() == summary


def test_a_file_of_before_there_were_versions_is_read(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(WITHOUT_VERSION | {"a_key_of_later": 1}))
    summary = read_summary(path)
    assert summary.version == 0
    assert (summary.dsr_after, summary.kinds["static"].interval) == (0.75, [0.1, 0.4])
    assert summary.reduction is not None
    assert summary.reduction.factor == 2.0
    assert summary.told_apart is None
    assert summary.gap is not None
    assert summary.gap.verdict == "present"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "has no summary"),
        ("{", "cannot be read as a summary"),
        ('{"dsr_after": "0.5"}', "dsr_after: '0.5' is not a number"),
        ('{"kinds": {"static": {}}}', r"kinds\.static\.attacks is missing"),
        ('{"seconds": {"gap": true}}', r"seconds\.gap: True is not a number"),
    ],
)
def test_what_is_no_summary_is_one_line(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "summary.json"
    path.write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        read_summary(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_figures_are_described_field_by_field() -> None:
    with pytest.raises(UserError, match="dsr_before: True is not a number"):
        made(Summary, {"dsr_before": True})
