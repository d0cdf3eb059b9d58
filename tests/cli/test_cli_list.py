"""`sirl list`."""

from __future__ import annotations

from typing import Any

import pytest

from sirl.attacks import ATTACKS
from sirl.compare.methods import METHODS
from sirl.judges import JUDGES
from sirl.prompts import BUNDLED


def test_attacks_with_kind_and_source(sirl: Any) -> None:
    rows = sirl("list", "attacks", "--json").json
    assert [row["name"] for row in rows] == list(ATTACKS)
    assert {row["kind"] for row in rows} <= {"static", "adaptive"}
    assert all("arXiv" in row["source"] and row["description"] for row in rows)


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("judges", set(JUDGES)),
        ("data", set(BUNDLED)),
        ("rewards", {"entropy", "random"}),
        ("methods", set(METHODS)),
        ("configs", {"demo"}),
        ("hazards", {"cybercrime", "chemical_biological"}),
    ],
)
def test_other_lists(sirl: Any, what: str, names: set[str]) -> None:
    assert names <= {row["name"] for row in sirl("list", what, "--json").json}


def test_table_for_people(sirl: Any) -> None:
    out = sirl("list", "data").out
    assert all(name in out for name in BUNDLED)


def test_fragments_are_told_from_configurations(sirl: Any) -> None:
    kinds = {row["name"]: (row["kind"], row["model"]) for row in sirl("list", "configs", "--json").json}
    assert kinds["demo"] == ("configuration", "demo")
    assert kinds["ablations/kl-0.01.yaml"] == ("fragment", None)
    assert kinds["ablations/organism-none.yaml"] == ("fragment", "demo@0")
    assert "None" not in sirl("list", "configs").out


def test_ids_of_other_taxonomies_are_in_json_alone(sirl: Any) -> None:
    rows = {row["name"]: row for row in sirl("list", "attacks", "--json").json}
    assert rows["base64"]["atlas"] == ["AML.T0054", "AML.T0068"]
    assert rows["direct"]["owasp"] == []
    assert "AML.T0054" not in sirl("list", "attacks").out
