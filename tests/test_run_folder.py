"""The files of a run folder are named in one place, and `--overwrite` clears these and nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

from sirl import run_folder
from sirl.manifest import clear
from sirl.run_folder import ALL, SUITES, Suite

SOURCE = Path(run_folder.__file__).parent
NAMED = {value for name, value in vars(run_folder).items() if name.isupper() and isinstance(value, str)}
INSIDE = {run_folder.PAIR_ANSWERS}
"""What lies in one of the folders."""
FOLDERS = {name for name in NAMED if "." not in name}


def docstrings(tree: ast.AST) -> set[ast.AST]:
    """Texts that stand as statements of their own: they tell, and name nothing to the program."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def spelled(path: Path) -> list[str]:
    """Names of a run folder's files that a module writes out: a file's as a whole text (of an f-string, what stands
    between braces), a folder's where it is joined to a path."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    told = docstrings(tree)
    texts = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and n not in told]
    files = {name for name in (*ALL, *INSIDE) if name not in FOLDERS and not name.startswith(".")}
    out = [n.value for n in texts if n.value.lstrip("/") in files]
    joined = [n.right for n in ast.walk(tree) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Div)]
    return out + [str(n.value) for n in joined if isinstance(n, ast.Constant) and n.value in FOLDERS]


def test_nothing_else_spells_a_name() -> None:
    elsewhere = [path for path in SOURCE.rglob("*.py") if path.stem != "run_folder"]
    found = {str(path.relative_to(SOURCE)): spelled(path) for path in elsewhere}
    assert not {file: names for file, names in found.items() if names}


def test_all_is_what_is_named() -> None:
    suites = [value for value in vars(run_folder).values() if isinstance(value, Suite)]
    assert suites == list(SUITES)
    files = {name for s in suites for name in (s.attempts, s.verdicts, s.disagreements)}
    assert len(files) == 3 * len(suites)
    assert set(ALL) == NAMED - INSIDE | files | {".base.partial", ".model.partial"}
    assert len(set(ALL)) == len(ALL)
    assert ALL[-1] == run_folder.MANIFEST, "which says until then that the folder is being cleared"


def test_overwrite_clears_these_and_nothing_else(tmp_path: Path) -> None:
    for name in (*ALL, "mine.txt", "notes.jsonl"):
        if name in FOLDERS:
            (tmp_path / name).mkdir()
            (tmp_path / name / "inside").touch()
        else:
            (tmp_path / name).write_text("{}")
    clear(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", "notes.jsonl"}
