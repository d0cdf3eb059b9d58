"""Lists as users write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sirl.inputs.comma_list import comma_list


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("a,b", ["a", "b"]),
        (" a , b,", ["a", "b"]),
        (",, ", []),
        ("a b,c", ["a b", "c"]),  # blanks divide words of a command line, which come apart already
        (["a,b", "c"], ["a", "b", "c"]),
        ((), []),
    ],
)
def test_names(given: str | list[str], names: list[str]) -> None:
    assert comma_list(given) == names


def test_a_file_may_have_commas_in_its_name(tmp_path: Path) -> None:
    file = tmp_path / "one, two.yaml"
    file.touch()
    assert comma_list([str(file), "x,y"], files=True) == [str(file), "x", "y"]
    assert len(comma_list(str(file))) == 2
