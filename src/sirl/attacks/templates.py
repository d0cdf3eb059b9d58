"""Users' own templates and suffixes: every one in a file becomes a static attack.

JSONL has one a line, under `template` (or `prompt`, or `text`), with the goal's place marked `[PROMPT]`; `name` (or
`id`) and `source` are optional. Under `suffix`, or in a row whose `category` is `suffix`, stands what goes behind the
goal. Text files (.txt, .md) hold templates with a line `---` between them. `docs/attacks.md` has examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sirl.attacks.base import PLACEHOLDER, TemplateAttack
from sirl.errors import UserError
from sirl.inputs.user_files import ending, has_half_surrogate, parse_json, read_text

TEMPLATE_COLUMNS = ("template", "prompt", "text")
"""Names tried in order for the column of the template."""

_SEPARATOR = "---"


@dataclass(frozen=True)
class _Row:
    """A template with the place it was found at, which errors name."""

    place: str
    name: str
    template: str
    source: str


def load_templates(file: str, flag: str = "--template_file") -> list[TemplateAttack]:
    """The attacks of a template file, in its order, named `template:NAME`.

    A template without a name is called by its place: the number of its line in JSONL, of its block in a text file.

    Raises:
        UserError: naming `flag`, the file and the row: unreadable, empty, no placeholder, or a name used twice.
    """
    path = Path(file).expanduser()
    if ending(path) not in (".jsonl", ".txt", ".md"):
        raise UserError(f"{flag}: {file} has an unsupported extension; supported are .jsonl .txt .md")
    text = read_text(path, flag)
    rows = _jsonl_rows(path, text) if ending(path) == ".jsonl" else _text_rows(path, text)
    places: dict[str, str] = {}
    attacks: list[TemplateAttack] = []
    try:
        for row in rows:
            if row.name in places:
                raise UserError(f"{row.place}: the name {row.name!r} is taken by {places[row.name]}")
            places[row.name] = row.place
            attacks.append(_attack(row))
    except UserError as error:
        raise UserError(f"{flag}: {path}, {error}") from None
    if not attacks:
        raise UserError(f"{flag}: {path} holds no templates")
    return attacks


def _jsonl_rows(path: Path, text: str) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UserError(f"{place}: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{place}: expected a JSON object, got {type(row).__name__}")
        template = _template_of(row, place)
        if has_half_surrogate(row):
            raise UserError(f"{place}: half of a surrogate pair, which is not valid UTF-8")
        yield _Row(place, _name_of(row, place) or str(number), template, str(row.get("source") or path.name))


def _text_rows(path: Path, text: str) -> Iterator[_Row]:
    if not text.strip():
        return
    blocks: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.strip() == _SEPARATOR:
            blocks.append([])
        else:
            blocks[-1].append(line)
    for number, lines in enumerate(blocks, 1):
        place = f"block {number}"
        yield _Row(place, str(number), _checked("\n".join(lines).strip("\n"), place), path.name)


def _template_of(row: Mapping[str, Any], place: str) -> str:
    """The template of a row; a suffix is a template that begins with the goal."""
    columns = [name for name in TEMPLATE_COLUMNS if row.get(name) is not None]
    suffix = row.get("suffix")
    if suffix is not None:
        if "template" in columns:
            raise UserError(f"{place}: has both 'template' and 'suffix'; give one of them")
        return _suffix_template(suffix, place)
    if not columns:
        expected = ", ".join((*TEMPLATE_COLUMNS, "suffix"))
        raise UserError(f"{place}: no template (one of {expected}); found {', '.join(map(str, row)) or 'no keys'}")
    value = row[columns[0]]
    if row.get("category") == "suffix" and isinstance(value, str) and PLACEHOLDER not in value:
        return _suffix_template(value, place)
    return _checked(value, place)


def _suffix_template(suffix: Any, place: str) -> str:
    if isinstance(suffix, str) and PLACEHOLDER in suffix:
        raise UserError(f"{place}: a suffix follows the goal and contains no {PLACEHOLDER}; call it 'template'")
    if not isinstance(suffix, str) or not suffix.strip():
        raise UserError(f"{place}: empty suffix" if isinstance(suffix, str) else f"{place}: the suffix must be a text")
    return _checked(f"{PLACEHOLDER} {suffix}", place)


def _checked(template: Any, place: str) -> str:
    if not isinstance(template, str):
        raise UserError(f"{place}: the template must be a text, got {type(template).__name__}")
    if not template.strip():
        raise UserError(f"{place}: empty template")
    if PLACEHOLDER not in template:
        raise UserError(f"{place}: no {PLACEHOLDER} in the template, so there is no place for the goal")
    if has_half_surrogate(template):
        raise UserError(f"{place}: half of a surrogate pair in the template, which is not valid UTF-8")
    return template


def _name_of(row: Mapping[str, Any], place: str) -> str:
    """`name`, or else `id`, or else nothing."""
    for key in ("name", "id"):
        value = row.get(key)
        if value is None or value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).isprintable():
            raise UserError(f"{place}: {key} must be a printable text or a number, got {value!r}")
        return str(value).strip()
    return ""


def _attack(row: _Row) -> TemplateAttack:
    class FromFile(TemplateAttack):
        """A template of the user's. Source: as the file says."""

        name = f"template:{row.name}"
        source = row.source
        description = f"the user's template at {row.place}"
        template = row.template

    return FromFile()
