"""What `import sirl` gives is described: each argument by name, what comes back, what can go wrong."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import pytest

import sirl
from sirl.cli.main import main
from sirl.errors import name_flags

FUNCTIONS = [name for name in sirl.__all__ if inspect.isfunction(getattr(sirl, name))]
ARGUMENTS = [*FUNCTIONS, "Attempt", "Completion", "Prompt", "RunConfig", "SIRLTrainer", "SamplingParams", "Verdict"]


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


@pytest.fixture
def in_python() -> Iterator[None]:
    name_flags(False)
    yield
    name_flags()


@pytest.mark.usefixtures("in_python")
def test_errors_name_arguments_in_python_and_flags_on_a_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(sirl.UserError, match=r"^model_name_or_path nowhere: ") as caught:
        sirl.load_model("nowhere")
    name_flags()
    assert str(caught.value).startswith("--model_name_or_path nowhere: ")
    name_flags(False)
    with pytest.raises(sirl.UserError, match=r"^judge: unknown judge 'solomon'; use one of "):
        sirl.load_judge("solomon")
    with pytest.raises(sirl.UserError, match=r"^attacks: unknown attack 'telepathy'; choose from "):
        sirl.load_attack("telepathy")
    with pytest.raises(sirl.UserError, match=r"^pair_target b: unknown; choose from clean, gated"):
        sirl.SIRLConfig(output_dir="out", pair_target="b")
    assert main(["attack", "--model_name_or_path", "nowhere", "--output_dir", "out"]) == 2
    assert "error: --model_name_or_path nowhere: " in capsys.readouterr().err


@pytest.mark.usefixtures("in_python")
def test_only_flags_lose_their_dashes() -> None:
    assert (
        str(sirl.UserError("--seed 3: a--b, -- and --- stay; give --goals"))
        == "seed 3: a--b, -- and --- stay; give goals"
    )
