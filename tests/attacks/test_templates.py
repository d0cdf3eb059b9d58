"""Template files of users: what is read, and every way in which they can be wrong."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from sirl.attacks.base import TemplateAttack
from sirl.attacks.templates import load_templates
from sirl.errors import UserError
from sirl.records import Prompt


def load(tmp_path: Path, *rows: Any) -> list[TemplateAttack]:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_templates(str(path))


def sent(attack: TemplateAttack, goal: str = "hide {snacks} [PROMPT]") -> str:
    return attack.build(Prompt("g", goal), random.Random(0))[0]["content"]


def test_columns_and_names(tmp_path: Path) -> None:
    attacks = load(
        tmp_path,
        {"template": "A [PROMPT]", "text": "not read", "name": "first one", "id": "x", "source": "a forum"},
        {"prompt": "B [PROMPT] {x}", "id": 12, "category": "template", "name": ""},
        {"text": "C [PROMPT] and [PROMPT]"},
        {"suffix": "! sure \\n", "name": "s"},
        {"prompt": "]] similarly", "category": "suffix", "id": "gcg-1"},
    )
    assert [a.name for a in attacks] == [f"template:{name}" for name in ("first one", "12", "3", "s", "gcg-1")]
    assert [a.source for a in attacks] == ["a forum", *["mine.jsonl"] * 4]
    assert {a.kind for a in attacks} == {"static"}
    assert [sent(a) for a in attacks] == [
        "A hide {snacks} [PROMPT]",
        "B hide {snacks} [PROMPT] {x}",
        "C hide {snacks} [PROMPT] and hide {snacks} [PROMPT]",
        "hide {snacks} [PROMPT] ! sure \\n",
        "hide {snacks} [PROMPT] ]] similarly",
    ]


def test_a_template_filed_under_suffix_is_a_template(tmp_path: Path) -> None:
    (attack,) = load(tmp_path, {"prompt": "A [PROMPT] B", "category": "suffix"})
    assert sent(attack, "x") == "A x B"


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeffKindly,\r\n\r\n[PROMPT]\r\n ---\t\r\n  Indented --- [PROMPT]\n".encode())
    attacks = load_templates(str(path))
    assert [a.name for a in attacks] == ["template:1", "template:2"]
    assert [sent(a, "go") for a in attacks] == ["Kindly,\n\ngo", "  Indented --- go"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"template": "no place"}], r"line 1: no \[PROMPT\] in the template"),
        ([{"template": "A [PROMPT]"}, {"template": " "}], r"line 2: empty template"),
        ([{"template": ["[PROMPT]"]}], r"line 1: the template must be a text, got list"),
        ([{"suffix": ""}], r"line 1: empty suffix"),
        ([{"suffix": 3}], r"line 1: the suffix must be a text"),
        ([{"suffix": "[PROMPT] x"}], r"line 1: a suffix follows the goal"),
        ([{"prompt": "  ", "category": "suffix"}], r"line 1: empty suffix"),
        ([{"suffix": "x", "template": "[PROMPT]"}], r"line 1: has both 'template' and 'suffix'"),
        (
            [{"jailbreak": "[PROMPT]"}],
            r"line 1: no template \(one of template, prompt, text, suffix\); found jailbreak",
        ),
        ([{}], r"line 1: no template .*; found no keys"),
        ([["[PROMPT]"]], r"line 1: expected a JSON object, got list"),
        ([{"template": "\ud800 [PROMPT]"}], r"line 1: half of a surrogate pair"),
        ([{"template": "[PROMPT]", "name": ["x"]}], r"line 1: name must be a printable text or a number"),
        ([{"template": "[PROMPT]", "name": "a\nb"}], r"line 1: name must be a printable text"),
        ([{"template": "[PROMPT]", "id": True}], r"line 1: id must be a printable text"),
        (
            [{"template": "A [PROMPT]", "name": "n"}, {"template": "B [PROMPT]", "id": "n"}],
            r"line 2: the name 'n' is taken by line 1",
        ),
        (
            [{"template": "A [PROMPT]", "name": "2"}, {"template": "B [PROMPT]"}],
            r"line 2: the name '2' is taken by line 1",
        ),
        ([], r"holds no templates"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^--template_file: .*mine\.jsonl,? {message}") as caught:
        load(tmp_path, *rows)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", b'{"template": "[PROMPT]"}\n{"template": ', r"t\.jsonl, line 2: not valid JSON"),
        ("t.jsonl", b"[" * 100_000, r"t\.jsonl, line 1: not valid JSON"),
        ("t.jsonl", b"\xff", r"t\.jsonl is not UTF-8 text \(byte 0\)"),
        ("t.txt", b"[PROMPT]\n---\n\n---\n[PROMPT]", r"t\.txt, block 2: empty template"),
        ("t.txt", b"[PROMPT]\n---\n", r"t\.txt, block 2: empty template"),
        ("t.txt", b"[PROMPT]\n---\nno place", r"t\.txt, block 2: no \[PROMPT\]"),
        ("t.txt", b" \n", r"t\.txt holds no templates"),
        ("t.yaml", b"", r"t\.yaml has an unsupported extension; supported are \.jsonl \.txt \.md"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"^attack\.template_file: .*{message}") as caught:
        load_templates(str(tmp_path / name), "attack.template_file")
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--template_file: no such file: .*nowhere\.txt"):
        load_templates(str(tmp_path / "nowhere.txt"))
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UserError, match=r"^--template_file: cannot read .*folder\.txt \("):
        load_templates(str(tmp_path / "folder.txt"))
