"""What `import sirl` gives is described: each argument by name, what comes back, what can go wrong."""

from __future__ import annotations

import inspect
import re

import pytest

import sirl

FUNCTIONS = [name for name in sirl.__all__ if inspect.isfunction(getattr(sirl, name))]
ARGUMENTS = [*FUNCTIONS, "Attempt", "Completion", "Prompt", "SIRLTrainer", "SamplingParams", "Verdict"]


def section(doc: str, title: str) -> str:
    found = re.search(rf"^{title}:\n((?:[ ]+.*\n?|\n)+)", doc, re.MULTILINE)
    assert found, f"no {title}:"
    return found[1]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_argument_is_described(name: str) -> None:
    found = getattr(sirl, name)
    described = re.findall(r"^    (\w+): \S", section(inspect.getdoc(found) or "", "Args"), re.MULTILINE)
    assert described == [p for p in inspect.signature(found).parameters if p != "self"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_say_what_they_raise_and_give_back(name: str) -> None:
    found = getattr(sirl, name)
    doc = inspect.getdoc(found) or ""
    assert "UserError: " in section(doc, "Raises")
    if found.__annotations__["return"] != "None":
        assert section(doc, "Returns").strip()
