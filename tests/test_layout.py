"""The house in order: imports go one way, as CONTRIBUTING.md states it, and files and functions are short."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "src" / "sirl").rglob("*.py"))


def room(module: str) -> str:
    """`generation` of `sirl.generation.local`; what stands at the front door (`sirl`) is nobody's room."""
    return module.split(".")[1] if "." in module else ""


def imported(path: Path) -> set[str]:
    """Rooms that a file imports from, in functions and for types as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {room(alias.name) for alias in node.names if alias.name.startswith("sirl.")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sirl":
            deep = "." in str(node.module)
            found |= {room(str(node.module))} if deep else {alias.name for alias in node.names}
    return found - {"", "__version__"}


def test_files_and_functions_are_short_enough_to_read() -> None:
    """400 lines a file, 55 a function."""
    texts = {path: path.read_text(encoding="utf-8") for path in FILES}
    long = [str(path) for path, text in texts.items() if text.count("\n") > 400]
    long += [
        f"{path}: {node.name}"
        for path, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 55
    ]
    assert not long


def test_every_room_has_its_duty() -> None:
    """docs/architecture.md names each room once, with what it is for, in 150 lines at most."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|$", text.split("## The path of a prompt")[0], re.MULTILINE)
    named = [name for names, _ in rows for name in re.findall(r"`(\w+)`", names)]
    rooms = {path.relative_to(ROOT / "src" / "sirl").parts[0].removesuffix(".py") for path in FILES}
    assert sorted(named) == sorted(rooms - {"__init__", "__main__"})
    assert all(duty.strip() for _, duty in rows)
    assert text.count("\n") <= 150


def test_an_update_is_told_by_places_that_exist() -> None:
    """What docs/architecture.md says does a step is there under that name."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("## An update, step by step")[1]
    training = ROOT / "src" / "sirl" / "training"
    for module, name in re.findall(r"`(\w+)\.([a-z_]\w+|[A-Z]\w+)`", text):
        if name != "py":
            assert re.search(rf"(def|class) {name}\b", (training / f"{module}.py").read_text(encoding="utf-8")), name
    for path in re.findall(r"`([\w/]+\.py)`", text):
        assert any((folder / path).is_file() for folder in (training, training.parent)), path


def test_imports_go_one_way() -> None:
    """What a room imports stands before it in the order that CONTRIBUTING.md states."""
    (block,) = re.findall(r"```order\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    place = {name: i for i, name in enumerate(block.split())}
    own = {path: path.relative_to(ROOT / "src" / "sirl").parts[0].removesuffix(".py") for path in FILES}
    rooms = set(own.values()) - {"__init__", "__main__"}
    assert set(place) == rooms, "every room has its place"
    up = [f"{own[p]} imports {n}" for p in FILES if own[p] in rooms for n in imported(p) if place[n] > place[own[p]]]
    assert not up


SCRIPTS = sorted(
    path for folder in ("benchmarks", "dev", "examples", "scale") for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_import_what_there_is(script: Path) -> None:
    """They run too seldom for a name that was changed to be noticed."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sirl":
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}"), (
                    alias.name
                )
