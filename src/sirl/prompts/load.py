"""Unlabeled prompts from wherever the user keeps them.

A source is a bundled name (`demo/train`), a file (.jsonl, .json, .csv, .tsv, .parquet, .txt; gzipped or not) or a hub
dataset (`org/name`, `org/name:config`, with `@split#revision` behind either), or several of these with commas between
them. SIRL learns from prompts alone, so only the prompt column is ever read, with what belongs to it
(`sirl.prompts.columns`), an id to name the rows and, on request and never in training, a category to group them. Safety
labels stay on disk.
"""

from __future__ import annotations

import hashlib
import logging
import random
import string
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from operator import itemgetter
from pathlib import Path
from typing import Any

from sirl.errors import UserError, suggestion
from sirl.inputs import user_files
from sirl.inputs.comma_list import comma_list
from sirl.prompts.chat_rows import NoPromptError, read_conversation
from sirl.prompts.columns import (
    PROMPT_COLUMNS,
    Columns,
    choose_columns,
    is_prefill_column,
    known_header,
    label,
    names,
    prompt_column,
)
from sirl.prompts.hub_data import FORM, HubName, hub_rows
from sirl.records import Conversation, Prompt

log = logging.getLogger(__name__)

__all__ = ["BUNDLED", "PROMPT_COLUMNS", "bundled_path", "check_disjoint", "drawn_prompts", "load_prompts", "normalise"]

BUNDLED = {
    "demo/train": "unlabeled training prompts: harmful, benign and borderline, mixed",
    "demo/train-wrapped": "more of them, in forms that jailbreaks take and in conversations",
    "demo/retention": "benign prompts on which training holds the policy to the model it started from",
    "demo/retention-wrapped": "more of them, in the same forms",
    "demo/retention-broad": "360 more of the first kind, on more topics",
    "demo/retention-code": "120 more on code, maths and writing, for models that are made for these",
    "demo/contrast": "pairs of a harmful and a benign request that share words, mixed; they made the bundled model",
    "demo/behaviours": "harmful behaviours in ten categories: the goals of the attacks",
    "demo/overrefusal": "benign prompts, half of which only sound harmful",
    "demo/dev-behaviours": "harmful behaviours to choose a policy by while training; none is among the goals",
    "demo/dev-overrefusal": "benign prompts to choose a policy by, half of which only sound harmful",
    "demo/choices": "very easy multiple-choice questions, with their answers: what else the model can do",
}
"""Prompt sets that ship with the package."""

_ENDINGS = (".jsonl", ".csv", ".parquet", ".txt", ".json", ".tsv", ".ndjson")
_OTHER_FILES = (".xlsx", ".xls", ".gz", ".zip", ".zst", ".bz2", ".arrow", ".yaml", ".yml", ".md", ".pkl")
_JSON = (".jsonl", ".json", ".ndjson")


@dataclass(frozen=True)
class _Row:
    """One cell of the prompt column with its place, which an error message names.

    `wrong` says why it cannot be asked, where that is clear before it is read.
    """

    place: str
    text: Any
    prefill: bool = False
    id: Any = None
    category: Any = None
    wrong: str | None = None


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

    Of chat-format prompts (a list of messages) the text is the last user turn's; the conversation is kept as well. An
    assistant's turn at the end is an answer, which is dropped, unless the column is called `prompt`: there it is what
    the answer begins with.

    Args:
        source: bundled name (`demo/train`), file (JSONL, JSON, CSV, parquet, text), or hub data set
            (`org/name:config@split`); several with commas.
        column: the prompts' column; by default found by its name.
        split: of a hub data set whose name has none.
        limit: keep that many, drawn under `seed`; of a hub data set no more are held than that.
        seed: decides which are drawn.
        flag: what errors call the source.
        with_category: also keep the column `category`. Training never does.

    Returns:
        At least one prompt.

    Raises:
        UserError: naming `flag`, file and line, where a row of a file is no prompt. Rows of a hub data set, which
            the user cannot mend, are left out and counted.
    """
    if limit is not None and limit < 1:
        raise UserError(f"{flag}: the number of prompts must be 1 or more, got {limit}")
    files = {part: _file_of(part, flag) for part in parts_of(source)}
    how = partial(_read, column=column, split=split, flag=flag, with_category=with_category)
    unique = _deduplicate((prompt for part, file in files.items() for prompt in how(part, file)), source)
    if limit is not None and None in files.values():
        prompts = _reservoir(unique, limit, seed)
    else:
        prompts = drawn_prompts(list(unique), limit, seed)
    if not prompts:
        raise UserError(f"{flag}: {source} holds no prompts")
    return prompts


def drawn_prompts(prompts: Sequence[Prompt], limit: int | None, seed: int) -> list[Prompt]:
    """`limit` of the prompts (None: all), drawn under `seed`, in their order."""
    if limit is None or limit >= len(prompts):
        return list(prompts)
    return [prompts[i] for i in sorted(random.Random(seed).sample(range(len(prompts)), limit))]


def _reservoir(prompts: Iterable[Prompt], limit: int, seed: int) -> list[Prompt]:
    """As `drawn_prompts` where nobody knows how many there are (Vitter 1985, algorithm R); another draw than that."""
    rng = random.Random(seed)
    kept: list[tuple[int, Prompt]] = []
    for place, prompt in enumerate(prompts):
        if place < limit:
            kept.append((place, prompt))
        elif (slot := rng.randrange(place + 1)) < limit:
            kept[slot] = (place, prompt)
    return [prompt for _, prompt in sorted(kept, key=itemgetter(0))]


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
    """Refuse to measure on what was trained on.

    Args:
        train: prompts that the model learns from.
        test: prompts that results are taken from.
        train_name: what the error calls `train`, such as the flag that named it.
        test_name: the same for `test`.

    Raises:
        UserError: some prompts stand in both, whatever their case and spacing; it names the first ones.
    """
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
    return comma_list(source) or [source]


def _file_of(source: str, flag: str) -> Path | None:
    """The file of a source, or None where it is a hub dataset."""
    if source in BUNDLED:
        return bundled_path(source)
    if source.startswith("demo/"):
        raise UserError(f"{flag}: no bundled prompts {source!r}{suggestion(source, BUNDLED, most=len(BUNDLED))}")
    path = Path(source).expanduser()
    if not _is_file_name(source, path):
        if HubName.parse(source) is None:
            raise UserError(f"{flag}: {source!r} is neither a file nor a dataset id ({FORM})")
        return None
    if path.is_dir():
        raise UserError(f"{flag}: {source} is a folder; give a file ({' '.join(_ENDINGS)})")
    if user_files.ending(path) not in _ENDINGS:
        raise UserError(
            f"{flag}: {source} has an unsupported extension; supported are {' '.join(_ENDINGS)}, and these with .gz"
        )
    user_files.check_file(path, source, flag)
    return path


def is_file(source: str) -> bool:
    """Whether one source is a file's name, whether there is such a file or not."""
    return _is_file_name(source, Path(source).expanduser())


def _is_file_name(source: str, path: Path) -> bool:
    """Whether the user means a file; `org/name-v1.5` is a dataset id although it has a suffix."""
    local = source.startswith((".", "/", "~")) or "\\" in source
    return local or path.exists() or path.suffix.lower() in (*_ENDINGS, *_OTHER_FILES)


def _read(
    source: str, path: Path | None, *, column: str | None, split: str, flag: str, with_category: bool
) -> Iterator[Prompt]:
    """The prompts of one file, or of the hub dataset `source`."""
    columns = Columns("")
    rows: Iterator[user_files.Row]

    def choose(header: Sequence[str]) -> list[str]:
        nonlocal columns
        where = f"{flag}: {source if path is None else path}"
        prompt = prompt_column(header, column, where)
        columns = choose_columns(header, prompt, where, named=column is not None, with_category=with_category)
        return columns.names

    if path is None:
        known = f" and no bundled set ({', '.join(BUNDLED)})"
        _, found = hub_rows(source, split, flag, choose, known)
        rows = (user_files.Row(f"{source}, row {n}", row) for n, row in enumerate(found, 1))
    elif (ending := user_files.ending(path)) in _JSON:
        yield from _prompts(_json_rows(path, column, flag, with_category), str(path), flag, lenient=False)
        return
    elif ending == ".txt":
        if column:
            raise UserError(f"{flag}: {path} is a text file with one prompt per line; it has no column {column!r}")
        lines = (_Row(row.place, row.value) for row in user_files.text_rows(path, flag))
        yield from _prompts(lines, str(path), flag, lenient=False)
        return
    elif ending == ".parquet":
        _, rows = user_files.parquet_table(path, flag, choose)
    else:
        header, rows = user_files.csv_table(path, flag, lambda header: known_header(header, column))
        choose(header)
    name = source if path is None else str(path)
    yield from _prompts((_row(row.value, row.place, columns) for row in rows), name, flag, lenient=path is None)


def _json_rows(path: Path, column: str | None, flag: str, with_category: bool) -> Iterator[_Row]:
    """Rows of objects, whose keys may differ but for the prompt's, or of texts (or lists of messages) alone."""
    prompt: str | None = None
    bare = False
    known: dict[tuple[str, ...], Columns] = {}
    for number, row in enumerate(user_files.json_rows(path, flag)):
        value, where = row.value, f"{flag}: {row.place}"
        bare = bare or (number == 0 and isinstance(value, str | list) and column is None)
        if bare and isinstance(value, str | list):
            yield _Row(row.place, value, prefill=True)
            continue
        if bare or not isinstance(value, dict):
            wanted = "a text or a list of messages as above" if bare else "a JSON object with a prompt"
            raise UserError(f"{where}: expected {wanted}, got {type(value).__name__}")
        prompt = prompt or prompt_column(list(value), column, where)
        if prompt not in value:
            raise UserError(f"{where}: no prompt column {prompt!r}; found {names(value)}")
        keys = tuple(value)
        if keys not in known:
            known[keys] = choose_columns(keys, prompt, where, named=column is not None, with_category=with_category)
        yield _row(value, row.place, known[keys])


# --- rows ---------------------------------------------------------------------------------------------------------


def _row(row: Mapping[str, Any], place: str, columns: Columns) -> _Row:
    """Touches no key but those of `columns`."""
    text, wrong = None, None
    try:
        text = columns.prompt_of(row)
    except ValueError as error:
        wrong = str(error)
    return _Row(
        place=place,
        text=text,
        prefill=is_prefill_column(columns.prompt),
        id=row[columns.id] if columns.id is not None else None,
        category=row[columns.category] if columns.category is not None else None,
        wrong=wrong,
    )


def _prompts(rows: Iterable[_Row], name: str, flag: str, lenient: bool) -> Iterator[Prompt]:
    """Prompts of the rows. A row of the user's file must be a prompt; one of the hub, which the user cannot mend, is
    left out and counted (`lenient`)."""
    dropped = 0
    stem = Path(Path(name).name.removesuffix(user_files.GZIP)).stem
    for number, row in enumerate(rows, 1):
        try:
            text, messages = _asked(row)
        except NoPromptError as error:
            if not lenient:
                raise UserError(f"{flag}: {row.place}: {error}; a prompt is a text or a list of messages") from None
            dropped += 1
            continue
        yield Prompt(
            id=label(row.id) or f"{stem}-{number}",
            text=text.strip(),
            category=label(row.category),
            source=name,
            messages=messages,
        )
    if dropped:
        log.warning("%s: %d rows without a prompt left out", name, dropped)


def _asked(row: _Row) -> tuple[str, Conversation]:
    """What the user asks last, and the turns where there are others."""
    if row.wrong:
        raise NoPromptError(row.wrong)
    text, messages = read_conversation(row.text, row.prefill)
    if user_files.has_half_surrogate([text, *messages, row.id, row.category]):
        raise NoPromptError("half of a surrogate pair, which is not valid UTF-8")
    return text, messages


def _deduplicate(prompts: Iterable[Prompt], name: str) -> Iterator[Prompt]:
    """First of each text; ids made unique, since attempts are filed under them."""
    texts: set[bytes] = set()  # digests, so that no text is held on to
    ids: set[str] = set()
    repeated = 0
    for prompt in prompts:
        said = "\0".join((prompt.text, *(turn["content"] for turn in prompt.messages)))
        key = hashlib.blake2b(said.encode(), digest_size=16).digest()
        if key in texts:
            repeated += 1
            continue
        texts.add(key)
        unique, n = prompt.id, 1
        while unique in ids:
            n += 1
            unique = f"{prompt.id}-{n}"
        ids.add(unique)
        yield replace(prompt, id=unique)
    if repeated:
        log.warning("%s: %d repeated prompts left out", name, repeated)


def _shorten(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
