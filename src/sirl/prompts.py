"""Unlabeled prompts from wherever the user keeps them.

A source is a bundled name (`demo/train`), a file (.jsonl, .csv, .parquet, .txt) or a hub dataset id (`org/name`, or
`org/name:config`), or several of these with commas between them. SIRL learns from prompts alone, so only the prompt
column is ever read, with `id` to name the rows and, on request and never in training, `category` to group them. Safety
labels beside them stay on disk.
"""

from __future__ import annotations

import csv
import json
import logging
import random
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from sirl.errors import UserError
from sirl.records import Conversation, Message, Prompt

log = logging.getLogger(__name__)

PROMPT_COLUMNS = ("prompt", "question", "instruction", "text", "behavior", "goal", "query")
"""Names tried in order where the user names no column."""

BUNDLED = {
    "demo/train": "unlabeled training prompts: harmful, benign and borderline, mixed",
    "demo/train-wrapped": "more of them, in forms that jailbreaks take and in conversations",
    "demo/retention": "benign prompts on which training holds the policy to the model it started from",
    "demo/retention-wrapped": "more of them, in the same forms",
    "demo/retention-broad": "360 more of the first kind, on more topics",
    "demo/behaviours": "harmful behaviours in ten categories: the goals of the attacks",
    "demo/overrefusal": "benign prompts, half of which only sound harmful",
    "demo/dev-behaviours": "harmful behaviours to choose a policy by while training; none is among the goals",
    "demo/dev-overrefusal": "benign prompts to choose a policy by, half of which only sound harmful",
    "demo/choices": "very easy multiple-choice questions, with their answers: what else the model can do",
}
"""Prompt sets that ship with the package."""

_ENDINGS = (".jsonl", ".csv", ".parquet", ".txt")
_OTHER_FILES = (".json", ".tsv", ".xlsx", ".xls", ".gz", ".zip", ".zst", ".arrow", ".yaml", ".yml", ".md", ".pkl")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


@dataclass(frozen=True)
class _Row:
    """One cell of the prompt column with its place, which an error message names."""

    place: str
    text: Any
    prefill: bool = False
    id: Any = None
    category: Any = None


def load_prompts(
    source: str,
    *,
    column: str | None = None,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    flag: str = "--dataset_name",
    with_category: bool = False,
) -> list[Prompt]:
    """Prompts of a source, in its order, without repetitions.

    `limit` keeps that many, drawn under `seed`. `split` is only for hub datasets. Of chat-format prompts (a list of
    messages) the text is the last user turn's, and the conversation is kept beside it. An assistant's turn at the end
    is an answer, which is dropped, unless the column is called `prompt`: there it is what the answer begins with.
    Errors name `flag` or the file and line.
    """
    if limit is not None and limit < 1:
        raise UserError(f"{flag}: the number of prompts must be 1 or more, got {limit}")
    found: list[Prompt] = []
    for part in parts_of(source):
        name, rows, from_hub = _open(part, column, split, flag, with_category)
        found += _prompts(rows, name, flag, lenient=from_hub)
    prompts = _deduplicate(found, source)
    if not prompts:
        raise UserError(f"{flag}: {source} holds no prompts")
    return drawn_prompts(prompts, limit, seed)


def drawn_prompts(prompts: Sequence[Prompt], limit: int | None, seed: int) -> list[Prompt]:
    """`limit` of the prompts (None: all), drawn under `seed`, in their order."""
    if limit is None or limit >= len(prompts):
        return list(prompts)
    return [prompts[i] for i in sorted(random.Random(seed).sample(range(len(prompts)), limit))]


def bundled_path(name: str) -> Path:
    """File of a bundled prompt set."""
    return Path(str(resources.files("sirl.demo"))) / "data" / f"{name.removeprefix('demo/')}.jsonl"


def normalise(text: str) -> str:
    """What is left of a prompt when case, punctuation, spacing and Unicode variants are taken away."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(c for c in folded if c not in string.punctuation and not unicodedata.category(c).startswith("P"))
    return " ".join(kept.split())


def check_disjoint(
    train: Sequence[Prompt], test: Sequence[Prompt], *, train_name: str = "training", test_name: str = "test"
) -> None:
    """Refuse to measure on what was trained on: `UserError` with the first prompts that stand in both sets."""
    seen = {normalise(p.text): p for p in train}
    both = [(seen[key], p) for p in test if (key := normalise(p.text)) in seen]
    if both:
        shown = "; ".join(f"{a.id} = {b.id} ({_shorten(b.text)!r})" for a, b in both[:3])
        raise UserError(
            f"{len(both)} of the {len(test)} {test_name} prompts are also {train_name} prompts: {shown}; "
            "remove them from one of the two"
        )


# --- sources ------------------------------------------------------------------------------------------------------


def parts_of(source: str) -> list[str]:
    """The sources of a list with commas; a file may have commas in its name."""
    if Path(source).expanduser().exists():
        return [source]
    return [part.strip() for part in source.split(",") if part.strip()] or [source]


def _open(
    source: str, column: str | None, split: str, flag: str, with_category: bool
) -> tuple[str, Iterator[_Row], bool]:
    """The name to use in messages, the rows, and whether they come from the hub."""
    if source in BUNDLED:
        path = bundled_path(source)
    elif source.startswith("demo/"):
        raise UserError(f"{flag}: no bundled prompts {source!r}{_close(source, BUNDLED)}")
    else:
        path = Path(source).expanduser()
        if not _is_file_name(source, path):
            if not _HUB_ID.fullmatch(source):
                raise UserError(f"{flag}: {source!r} is no file and no dataset id")
            return source, _hub_rows(source, column, split, flag, with_category), True
    if path.is_dir():
        raise UserError(f"{flag}: {source} is a folder; give a file ({' '.join(_ENDINGS)})")
    if path.suffix not in _ENDINGS:
        raise UserError(f"{flag}: {source} has an unsupported ending; supported are {' '.join(_ENDINGS)}")
    if not path.is_file():
        raise UserError(f"{flag}: no such file: {source}")
    try:
        empty = not path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        raise UserError(f"{flag}: cannot read {source} ({error.strerror})") from None
    if empty:
        raise UserError(f"{flag}: {source} is empty")
    return str(path), _READERS[path.suffix](path, column, flag, with_category), False


def _is_file_name(source: str, path: Path) -> bool:
    """Whether the user means a file; `org/name-v1.5` is a dataset id although it has a suffix."""
    local = source.startswith((".", "/", "~")) or "\\" in source
    return local or path.exists() or path.suffix.lower() in (*_ENDINGS, *_OTHER_FILES)


def _jsonl_rows(path: Path, column: str | None, flag: str, with_category: bool) -> Iterator[_Row]:
    chosen = column
    for number, line in enumerate(_lines(path, flag), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{place}: not valid JSON ({error.msg}, column {error.colno})") from None
        if not isinstance(row, dict):
            raise UserError(f"{place}: expected a JSON object with a prompt, got {type(row).__name__}")
        chosen = chosen or _choose_column(list(row), None, str(path), flag)
        if chosen not in row:
            raise UserError(f"{place}: no prompt column {chosen!r}; found {_names(row)}")
        yield _row(row, place, chosen, with_category)


def _csv_rows(path: Path, column: str | None, flag: str, with_category: bool) -> Iterator[_Row]:
    import pandas as pd

    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            header = next(csv.reader(handle), [])
        columns = _columns(header, column, str(path), flag, with_category)
        # keep_default_na: the prompt "null" is a prompt, and an empty cell is an empty text
        table = pd.read_csv(
            path, usecols=columns, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
        )
    except (csv.Error, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{flag}: {path} is not a readable CSV file ({_first_line(error)})") from None
    rows = table.to_dict("records")
    return (_row(row, f"{path}, row {n}", columns[0], with_category) for n, row in enumerate(rows, 1))


def _parquet_rows(path: Path, column: str | None, flag: str, with_category: bool) -> Iterator[_Row]:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        header = pq.read_schema(path).names
        columns = _columns(header, column, str(path), flag, with_category)
        table = pq.read_table(path, columns=columns)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{flag}: {path} is not a readable parquet file ({_first_line(error)})") from None
    return (_row(row, f"{path}, row {n}", columns[0], with_category) for n, row in enumerate(table.to_pylist(), 1))


def _text_rows(path: Path, column: str | None, flag: str, with_category: bool) -> Iterator[_Row]:
    del with_category  # a text file has one column
    if column:
        raise UserError(f"{flag}: {path} is a text file with one prompt a line; it has no column {column!r}")
    lines = enumerate(_lines(path, flag), 1)
    return (_Row(f"{path}, line {n}", line) for n, line in lines if line.strip())


def _hub_rows(source: str, column: str | None, split: str, flag: str, with_category: bool) -> Iterator[_Row]:
    columns, rows = hub_table(source, split, flag, lambda header: _columns(header, column, source, flag, with_category))
    return (_row(row, f"{source}, row {n}", columns[0], with_category) for n, row in enumerate(rows, 1))


def hub_table(
    source: str, split: str, flag: str, choose: Callable[[Sequence[str]], list[str]]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Some columns of a hub dataset, those that `choose` picks of all, and their rows; no other is fetched."""
    import datasets

    path, _, config = source.partition(":")
    log.info("reading %s (%s) from the hub", source, split)
    try:
        stream = datasets.load_dataset(path, config or None, split=split, streaming=True)
        columns = choose(stream.column_names or list(next(iter(stream), {})))
        return columns, list(stream.select_columns(columns))
    except UserError:
        raise
    except Exception as error:  # a builder can fail in any way; what the user can do about it is the same
        raise UserError(
            f"{flag}: {source!r} is no file and no bundled set ({', '.join(BUNDLED)}), and the hub gave no dataset of "
            f"this name, split {split!r} ({type(error).__name__}: {_first_line(error)})"
        ) from error


_Reader = Callable[[Path, "str | None", str, bool], Iterator[_Row]]
_READERS: dict[str, _Reader] = {
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
    ".txt": _text_rows,
}


# --- columns and rows ---------------------------------------------------------------------------------------------


def _choose_column(header: Sequence[str], column: str | None, name: str, flag: str) -> str:
    wanted = (column,) if column else PROMPT_COLUMNS
    for candidate in wanted:
        if candidate in header:
            return candidate
    expected = repr(column) if column else f"(one of {', '.join(PROMPT_COLUMNS)})"
    raise UserError(f"{flag}: {name} has no prompt column {expected}; found {_names(header)}")


def _columns(header: Sequence[str], column: str | None, name: str, flag: str, with_category: bool) -> list[str]:
    """The columns to read, the prompt's first."""
    chosen = _choose_column(header, column, name, flag)
    beside = ("id", "category") if with_category else ("id",)
    return [chosen, *(c for c in beside if c in header and c != chosen)]


def _row(row: Mapping[str, Any], place: str, column: str, with_category: bool) -> _Row:
    """Touches no key but the prompt's, `id` and, on request, `category`."""
    return _Row(
        place=place,
        text=row[column],
        prefill=column == "prompt",
        id=row["id"] if "id" in row and column != "id" else None,
        category=row["category"] if with_category and "category" in row else None,
    )


def _prompts(rows: Iterable[_Row], name: str, flag: str, lenient: bool) -> Iterator[Prompt]:
    """Prompts of the rows. A row of the user's file must be a prompt; one of the hub, which the user cannot mend, is
    left out and counted (`lenient`)."""
    dropped = 0
    stem = Path(name).stem
    for number, row in enumerate(rows, 1):
        text, messages = _conversation(row.text, row.prefill)
        if not text.strip():
            if not lenient:
                what = "blank prompt" if isinstance(row.text, str) else f"no prompt but {type(row.text).__name__}"
                raise UserError(f"{flag}: {row.place}: {what}; a prompt is a text or a list of messages")
            dropped += 1
            continue
        yield Prompt(
            id=f"{stem}-{number}" if row.id is None or row.id == "" else str(row.id),
            text=text.strip(),
            category=None if row.category is None else str(row.category),
            source=name,
            messages=messages,
        )
    if dropped:
        log.warning("%s: %d rows without a prompt left out", name, dropped)


def _conversation(value: Any, prefill: bool) -> tuple[str, Conversation]:
    """What the user asks last, and the turns where there are others ("" and none where `value` is no prompt).

    Turns behind the user's last one are kept if they are a `prefill`.
    """
    if isinstance(value, str):
        return value, ()
    if not isinstance(value, Sequence) or not all(isinstance(turn, Mapping) for turn in value):
        return "", ()
    turns = [Message(role=str(turn.get("role")), content=turn.get("content") or "") for turn in value]
    asked = [place for place, turn in enumerate(turns) if turn["role"] == "user"]
    if not asked or not all(isinstance(turn["content"], str) for turn in turns):
        return "", ()
    if not prefill:
        turns = turns[: asked[-1] + 1]
    return turns[asked[-1]]["content"], tuple(turns) if len(turns) > 1 else ()


def _deduplicate(prompts: Iterable[Prompt], name: str) -> list[Prompt]:
    """First of each text; ids made unique, since attempts are filed under them."""
    texts: set[tuple[str, ...]] = set()
    ids: set[str] = set()
    kept: list[Prompt] = []
    repeated = 0
    for prompt in prompts:
        key = (prompt.text, *(turn["content"] for turn in prompt.messages))
        if key in texts:
            repeated += 1
            continue
        texts.add(key)
        unique, n = prompt.id, 1
        while unique in ids:
            n += 1
            unique = f"{prompt.id}-{n}"
        ids.add(unique)
        kept.append(replace(prompt, id=unique))
    if repeated:
        log.warning("%s: %d repeated prompts left out", name, repeated)
    return kept


# --- messages -----------------------------------------------------------------------------------------------------


def _lines(path: Path, flag: str) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{flag}: {path} is not UTF-8 text (byte {error.start})") from None


def _names(columns: Iterable[str]) -> str:
    return ", ".join(map(str, columns)) or "no columns"


def _close(name: str, known: Iterable[str]) -> str:
    known = list(known)
    match = get_close_matches(name, known, n=1)
    return f"; did you mean {match[0]!r}?" if match else f"; there are {', '.join(known)}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _shorten(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
