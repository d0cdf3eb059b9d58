"""Files of users, read whole or not at all: JSON, JSONL, CSV, parquet and text in the dress that people keep them in.

Text may be UTF-8 with or without a byte order mark, UTF-16 or UTF-32 with one, plain or gzipped, with any line ends. A
row that cannot be read is an error that names it, never one row less. (The package's own files, in which a crash may
have cut the last line, are `sirl.records`'s.)
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sirl.errors import UserError

GZIP = ".gz"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins with UTF-16's, so it comes first
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_QUOTING = {
    "unexpected end of data": "a quoted text is not closed before the end of the file",
    "expected after": "something follows a closing quote; within quotes, write a quote twice",
}


@dataclass(frozen=True)
class Row:
    """One row with its place (file and line or row), which errors name."""

    place: str
    value: Any


def ending(path: Path) -> str:
    """The ending that tells a file's format, in small letters and without `.gz`."""
    name = path.name.lower()
    return Path(name.removesuffix(GZIP)).suffix


def check_file(path: Path, source: str, flag: str) -> None:
    """See that a file is there, can be read and is not empty.

    Raises:
        UserError: naming `flag` and the file as the user wrote it.
    """
    if not path.is_file():
        raise UserError(f"{flag}: no such file: {source}")
    try:
        with path.open("rb") as handle:
            empty = not handle.read(1)
    except OSError as error:
        raise UserError(f"{flag}: cannot read {source} ({error.strerror})") from None
    if empty:
        raise UserError(f"{flag}: {source} is empty")


def read_text(path: Path, flag: str) -> str:
    r"""Text of a file without its byte order mark, every line ended by `\n`.

    Raises:
        UserError: no such file, or no text; naming `flag`, the file and the line.
    """
    data = _read_bytes(path, flag)
    mark, encoding = next(((bom, name) for bom, name in _BOMS if data.startswith(bom)), (b"", "utf-8"))
    data = data[len(mark) :]
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        seems = "" if encoding == "utf-8" else f", nor the {encoding[:6].upper()} that it begins as"
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{flag}: {path} is not UTF-8 text (byte {error.start + len(mark)}){seems}; see line {line}, and save the "
            "file as UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(
            f"{flag}: {path} is not UTF-8 text (a NUL character in line {line}), but damaged or UTF-16 without a byte "
            "order mark; save it as UTF-8"
        )
    # joined files have a mark within; JSON escapes line ends in its strings, so this changes none of them
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n\ufeff", "\n")


def _read_bytes(path: Path, flag: str) -> bytes:
    try:
        data = path.read_bytes()
        if path.suffix.lower() == GZIP or data.startswith(b"\x1f\x8b"):
            return gzip.decompress(data)
        return data
    except FileNotFoundError:
        raise UserError(f"{flag}: no such file: {path}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{flag}: {path} is not a whole gzip file ({error})") from None
    except OSError as error:
        raise UserError(f"{flag}: cannot read {path} ({error.strerror})") from None


# --- JSON ---------------------------------------------------------------------------------------------------------


def parse_json(text: str) -> Any:
    """A JSON value in which NaN and infinities, which pandas writes for empty cells, are None.

    Raises:
        ValueError: with the reason, in one line.
    """
    try:
        return json.loads(text, parse_constant=lambda _: None, parse_float=_finite, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise ValueError(f"not valid JSON ({error.msg}, {line}column {error.colno})") from None
    except RecursionError:
        raise ValueError("not valid JSON (nested too deeply)") from None


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} appears twice")
    return out


def has_half_surrogate(value: Any) -> bool:
    r"""Whether a text in the value holds half of a surrogate pair (`\ud83d`), which cannot be written as UTF-8."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return True
        return False
    if isinstance(value, dict):
        return any(has_half_surrogate(part) for pair in value.items() for part in pair)
    return isinstance(value, list | tuple) and any(map(has_half_surrogate, value))


def json_rows(path: Path, flag: str) -> Iterator[Row]:
    """Rows of a file with one JSON value a line, or with one array of them (or one object) over many lines.

    Raises:
        UserError: naming `flag`, the file and the line.
    """
    text = read_text(path, flag)
    lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    first = next(lines, (1, ""))
    if _spans_lines(first[1]):
        try:
            value = parse_json(text)
        except ValueError as error:
            if text.lstrip()[0] == "[" or ending(path) == ".json":
                raise UserError(f"{flag}: {path}: {error}") from None
        else:
            rows = value if isinstance(value, list) else [value]
            yield from (Row(f"{path}, row {number}", row) for number, row in enumerate(rows, 1))
            return
    if not first[1]:
        return
    for number, line in [first, *lines]:
        place = f"{path}, line {number}"
        try:
            yield Row(place, parse_json(line))
        except ValueError as error:
            raise UserError(f"{flag}: {place}: {error}") from None


def _spans_lines(line: str) -> bool:
    """Whether a file that begins with this line is one JSON value: no row of its own, or an array of rows."""
    if line.lstrip()[:1] not in ("[", "{"):
        return False
    try:
        value = parse_json(line)
    except ValueError:
        return True
    turns = value and all(isinstance(row, dict) and {"role", "content"} <= set(row) for row in value)
    return isinstance(value, list) and not turns


def read_json_rows(file: str, flag: str) -> list[Any]:
    """Rows of a JSON or JSONL file, none of them left out.

    Raises:
        UserError: there is no such file, or a row is no JSON or no text. The message begins with `flag`.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"{flag}: no such file: {file}")
    if ending(path) in (".csv", ".tsv", ".parquet"):
        raise UserError(f"{flag}: {file} has an unsupported extension; expected rows of JSON (.jsonl or .json)")
    rows = list(json_rows(path, flag))
    for row in rows:
        if has_half_surrogate(row.value):
            raise UserError(f"{flag}: {row.place}: half of a surrogate pair, which is not valid UTF-8")
    return [row.value for row in rows]


# --- CSV, parquet, text -------------------------------------------------------------------------------------------


class _BadRowError(Exception):
    """A row that is not as the header says; which one, and why."""


def csv_table(path: Path, flag: str, knows: Callable[[Sequence[str]], bool]) -> tuple[list[str], Iterator[Row]]:
    r"""Header and rows of a CSV file, every cell a text. `knows` says whether a header has the columns that are wanted.

    It also tells the delimiter: the comma, or else the first of semicolon, tab and bar under which the header is known.
    Quotes within quotes are doubled (RFC 4180) or, where the file cannot be read so, escaped as `\"`; any other
    backslash stays as it is.

    Raises:
        UserError: naming `flag`, the file and the row: more or fewer fields than the header has, or wrong quotes.
    """
    text = read_text(path, flag)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default is below what people paste into prompts
    delimiter, text = _delimiter(text, "\t" if ending(path) == ".tsv" else ",", knows)
    table, wrong = None, ""
    for escaped in _escapes(text, delimiter):
        try:
            found = _parsed(text, delimiter, escaped)
        except _BadRowError as error:
            wrong = wrong or str(error)  # the first way of reading is the usual one
            continue
        table = table or found
        if escaped or not _has_bare_escapes(found[1], text):
            table = found
            break
    if table is None:
        raise UserError(f"{flag}: {path} is not a readable CSV file: {wrong}")
    header, rows = table
    named = (Row(f"{path}, row {n}", dict(zip(header, cells, strict=True))) for n, cells in enumerate(rows, 1))
    return header, named


def _escapes(text: str, delimiter: str) -> Iterator[str]:
    """The characters that a backslash may escape, in the order to try: none, then quotes, then the delimiter too."""
    yield ""
    if '\\"' in text:
        yield '"\\'
    if f"\\{delimiter}" in text:
        yield f'"\\{delimiter}'


def _has_bare_escapes(rows: Iterable[list[str]], text: str) -> bool:
    """Whether an escaped quote stands in a cell without quotes around it. No writer that doubles quotes leaves one."""
    found = (cell for row in rows for cell in row if '\\"' in cell)
    return any(cell in text for cell in itertools.islice(found, 20))  # one dialect a file: a few cells tell it


def _delimiter(text: str, usual: str, knows: Callable[[Sequence[str]], bool]) -> tuple[str, str]:
    """The delimiter, and the text without a line that names it (`sep=;`, which spreadsheets write)."""
    if named := re.match(r'\s*"?sep=([,;|\t])"?\n', text):
        return named[1], text[named.end() :]
    for delimiter in dict.fromkeys((usual, *_DELIMITERS)):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        if knows(next((row for row in map(_stripped, reader) if any(row)), [])):
            return delimiter, text
    return usual, text


def _stripped(cells: Iterable[str]) -> list[str]:
    return [cell.strip() for cell in cells]


def _parsed(text: str, delimiter: str, escaped: str = "") -> tuple[list[str], list[list[str]]]:
    """Header and rows, as many fields in each; blank lines are left out. A backslash escapes what is `escaped`."""
    if escaped:
        text = re.sub(rf"\\([{re.escape(escaped)}])|\\", lambda found: found[0] if found[1] else "\\\\", text)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        escapechar="\\" if escaped else None,
        strict=True,
        skipinitialspace=True,
    )
    header: list[str] = []
    rows: list[list[str]] = []
    begins = 1
    try:
        for cells in reader:
            if not header:
                header = _stripped(cells) if any(_stripped(cells)) else []
            elif any(_stripped(cells)) or len(cells) == len(header) == 1:  # the latter is a cell that is blank
                if len(cells) != len(header):
                    _refuse_width(cells, header, len(rows) + 1, begins, delimiter)
                rows.append(cells)
            begins = reader.line_num + 1
    except csv.Error as error:
        why = next((words for sign, words in _QUOTING.items() if sign in str(error)), str(error))
        raise _BadRowError(f"row {len(rows) + 1} (line {begins}): {why}") from None
    return header, rows


def _refuse_width(cells: list[str], header: list[str], row: int, line: int, delimiter: str) -> NoReturn:
    fields = f"{len(cells)} field{'s'[: len(cells) != 1]}"
    more = len(cells) > len(header)
    cure = (
        f"quote texts that hold {_DELIMITERS[delimiter]}" if more else "quote texts that hold line ends; or is it cut?"
    )
    raise _BadRowError(f"row {row} (line {line}) has {fields}, the header {len(header)}; {cure}")


def parquet_table(
    path: Path, flag: str, choose: Callable[[Sequence[str]], list[str]]
) -> tuple[list[str], Iterator[Row]]:
    """Header and rows of a parquet file, of the columns that `choose` picks alone; no other is decoded.

    Raises:
        UserError: naming `flag` and the file.
    """
    import pyarrow
    import pyarrow.parquet as pq

    try:
        header = pq.read_schema(path).names
        rows = pq.read_table(path, columns=choose(header)).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        words = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise UserError(f"{flag}: {path} is not a readable parquet file ({words})") from None
    return header, (Row(f"{path}, row {number}", row) for number, row in enumerate(rows, 1))


def text_rows(path: Path, flag: str) -> Iterator[Row]:
    """The lines of a text file that are not blank."""
    lines = enumerate(read_text(path, flag).split("\n"), 1)
    return (Row(f"{path}, line {number}", line) for number, line in lines if line.strip())
