"""One set of prompts in many dress is read as the same; what cannot be read whole is one line that names the row."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sirl.attacks.templates import load_templates
from sirl.cli.judge import read_rows
from sirl.errors import UserError
from sirl.evals.choices import load_questions
from sirl.evals.tasks.glue import checked_rows
from sirl.inputs.user_files import parse_json, read_json_rows
from sirl.prompts import load_prompts

FIVE = (
    "How do I, as a beginner, bake bread?",
    'She said "good, then" and left; why?',
    "Name a river in Perú\u2028or café 🙂.",
    "First line\nsecond line",
    "A path such as C:\\new, a tab\tand a bar | here?",
)
LINES = tuple(text for text in FIVE if "\n" not in text)
ROWS = [{"id": f"p{n}", "prompt": text, "label": n % 2} for n, text in enumerate(FIVE)]
COLUMNS = ("id", "prompt", "label")


def as_csv(delimiter: str = ",", end: str = "\n", header: tuple[str, ...] = COLUMNS, **how: Any) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, **how)
    writer.writerow(header)
    writer.writerows(row.values() for row in ROWS)
    return out.getvalue()


def as_jsonl(key: str = "prompt", value: Callable[[str], Any] = str, **more: Any) -> str:
    rows = [{key: value(text), **more} for text in FIVE]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def backslashed(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def turns(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "Well."}]


def parts(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": text}]}]


def sharegpt(text: str) -> list[dict[str, Any]]:
    return [{"from": "human", "value": text}, {"from": "gpt", "value": "Well."}]


def parquet(table: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pd.DataFrame(table).to_parquet(out)
    return out.getvalue()


BOM = "\ufeff"
DRESS: dict[str, tuple[str, str | bytes]] = {
    "jsonl": ("a.jsonl", as_jsonl()),
    "jsonl in capitals": ("A.JSONL", as_jsonl()),
    "jsonl, byte order mark": ("a.jsonl", BOM + as_jsonl()),
    "jsonl, joined files with marks": ("a.jsonl", "".join(BOM + line + "\n" for line in as_jsonl().split("\n")[:-1])),
    "jsonl, windows": ("a.jsonl", as_jsonl().replace("\n", "\r\n")),
    "jsonl, old mac": ("a.jsonl", as_jsonl().replace("\n", "\r")),
    "jsonl, blank lines": ("a.jsonl", "\n  \n" + as_jsonl().replace("\n", "\n\n")),
    "jsonl, no last newline": ("a.jsonl", as_jsonl().rstrip("\n")),
    "jsonl, escapes": ("a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)),
    "jsonl, UTF-16": ("a.jsonl", as_jsonl().encode("utf-16")),
    "jsonl, UTF-16 big end first": ("a.jsonl", (BOM + as_jsonl()).encode("utf-16-be")),
    "jsonl, UTF-32": ("a.jsonl", as_jsonl().encode("utf-32")),
    "jsonl, gzip": ("a.jsonl.gz", gzip.compress(as_jsonl().encode())),
    "jsonl, gzip without the ending": ("a.jsonl", gzip.compress(as_jsonl().encode())),
    "jsonl, NaN beside": ("a.jsonl", as_jsonl(id=float("nan"), category=float("nan"), score=float("inf"))),
    "jsonl of texts": ("a.jsonl", "".join(json.dumps(text) + "\n" for text in FIVE)),
    "jsonl of conversations": ("a.jsonl", "".join(json.dumps(turns(text)[:1]) + "\n" for text in FIVE)),
    "ndjson": ("a.ndjson", as_jsonl()),
    "jsonl as json": ("a.json", as_jsonl()),
    "array": ("a.json", json.dumps(ROWS)),
    "array, many lines": ("a.json", json.dumps(ROWS, indent=2)),
    "array as jsonl": ("a.jsonl", json.dumps(ROWS, indent=2)),
    "array of texts": ("a.json", json.dumps(FIVE)),
    "messages": ("a.jsonl", as_jsonl("messages", turns)),
    "messages under prompt": ("a.jsonl", as_jsonl("prompt", lambda text: turns(text)[:1])),
    "content parts": ("a.jsonl", as_jsonl("messages", parts)),
    "content parts under prompt": ("a.jsonl", as_jsonl("prompt", lambda text: parts(text)[0]["content"])),
    "ShareGPT": ("a.jsonl", as_jsonl("conversations", sharegpt)),
    "other keys in each row": (
        "a.jsonl",
        "".join(json.dumps({f"k{n}": n, "prompt": t}) + "\n" for n, t in enumerate(FIVE)),
    ),
    "csv": ("a.csv", as_csv()),
    "csv in capitals": ("A.CSV", as_csv()),
    "csv, all quoted": ("a.csv", as_csv(quoting=csv.QUOTE_ALL)),
    "csv, byte order mark": ("a.csv", BOM + as_csv()),
    "csv, windows": ("a.csv", as_csv(end="\r\n")),
    "csv, windows within cells too": ("a.csv", as_csv().replace("\n", "\r\n")),
    "csv, old mac": ("a.csv", as_csv().replace("\n", "\r")),
    "csv, blank lines": ("a.csv", "\n \n" + as_csv(end="\n\n") + "   \n,,\n\n"),
    "csv, semicolons": ("a.csv", as_csv(";")),
    "csv, a line that names them": ("a.csv", "sep=;\r\n" + as_csv(";", "\r\n")),
    "csv, tabs": ("a.csv", as_csv("\t")),
    "csv, bars": ("a.csv", as_csv("|")),
    "csv, blanks behind commas": ("a.csv", as_csv(", ".strip(), quoting=csv.QUOTE_ALL).replace('","', '", "')),
    "csv, backslashes": ("a.csv", "prompt,id\n" + "".join(f"{backslashed(t)},{n}\n" for n, t in enumerate(FIVE))),
    "csv, backslashes alone before quotes": (
        "a.csv",
        "prompt,id\n" + "".join('"' + t.replace('"', '\\"') + f'",{n}\n' for n, t in enumerate(FIVE)),
    ),
    "csv, UTF-16": ("a.csv", as_csv("\t", "\r\n").encode("utf-16")),
    "csv, gzip": ("a.csv.gz", gzip.compress(as_csv().encode())),
    "csv, other case": ("a.csv", as_csv(header=("ID", " Prompt ", "Label"))),
    "csv with an index": ("a.csv", pd.DataFrame(ROWS).to_csv()),
    "csv, same name twice elsewhere": ("a.csv", as_csv(header=("label", "prompt", "label"))),
    "tsv": ("a.tsv", as_csv("\t")),
    "tsv with commas": ("a.tsv", as_csv()),
    "parquet": ("a.parquet", parquet(ROWS)),
    "parquet in capitals": ("a.Parquet", parquet(ROWS)),
    "parquet of messages": ("a.parquet", parquet([{"messages": turns(text)} for text in FIVE])),
    "parquet of ShareGPT": ("a.parquet", parquet([{"conversations": sharegpt(text)} for text in FIVE])),
    "parquet of content parts": ("a.parquet", parquet([{"messages": parts(text)} for text in FIVE])),
    "text": ("a.txt", "\n".join(LINES)),
    "text, windows, mark, blank lines": ("a.TXT", BOM + "\r\n\r\n".join(LINES) + "\r\n"),
    "text, old mac": ("a.txt", "\r".join(LINES) + "\r"),
    "text, UTF-16": ("a.txt", "\n".join(LINES).encode("utf-16")),
    "text, gzip": ("a.txt.gz", gzip.compress("\n".join(LINES).encode())),
}


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize("name", DRESS)
def test_the_same_prompts_in_any_dress(name: str, tmp_path: Path) -> None:
    file, content = DRESS[name]
    found = load_prompts(write(tmp_path / file, content), with_category=True)
    assert [p.text for p in found] == list(LINES if "txt" in file.lower() else FIVE)
    assert len({p.id for p in found}) == len(found)
    assert not any("nan" in p.id or p.category for p in found)


IMAGE = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]
CUT = (
    "jsonl",
    "jsonl, escapes",
    "jsonl, UTF-16",
    "jsonl, gzip",
    "array, many lines",
    "csv, all quoted",
    "csv, semicolons",
)


@pytest.mark.parametrize("name", CUT)
def test_a_file_cut_anywhere_is_an_error_or_whole_rows(name: str, tmp_path: Path) -> None:
    """Prompts of a cut file are never other prompts: the first of them, each to its end."""
    file, content = DRESS[name]
    whole = content.encode() if isinstance(content, str) else content
    refused = 0
    ends = range(1, len(whole), 3)
    for end in ends:
        try:
            found = load_prompts(write(tmp_path / file, whole[:end]))
        except UserError:
            refused += 1
            continue
        assert tuple(p.text for p in found) == FIVE[: len(found)], end
    assert refused > len(ends) / 2


MANY = "prompt\n" + "fine\n" * 3
MALFORMED: dict[str, tuple[str, str | bytes, str]] = {
    "unquoted commas": (
        "a.csv",
        "prompt\nHow do I, as a chemist, name it?\nPlain\n",
        "row 1 .* has 3 fields, the header 1; quote",
    ),
    "one unquoted comma": ("a.csv", "prompt,label\nfine,1\nHow, then?,0\n", "row 2 .*has 3 fields, the header 2"),
    "unquoted semicolon": ("a.csv", "prompt;label\nfine;1\nHow; then?;0\n", "row 2 .*hold semicolons"),
    "an end that is cut": ("a.csv", "prompt,label\nfine,1\nHow th", "row 2 .*has 1 field, the header 2"),
    "a quote that is never closed": ("a.csv", 'prompt,label\nfine,1\n"How th', "row 2 .*not closed before the end"),
    "a quote within quotes": ("a.csv", 'prompt\nfine\n"He said "hi" to me"\n', "row 2 .*write a quote twice"),
    "a line end without quotes": ("a.csv", "prompt,label\nfirst\nsecond,1\n", "row 1 .*has 1 field, the header 2"),
    "backslashes and cut": ("a.csv", 'prompt,l\n"He said \\"hi, there\\" to me",1\n"and \\"th', "row 1 "),
    "the column twice": ("a.csv", "prompt,prompt\na,b\n", "more than one column 'prompt'"),
    "the column twice in other case": ("a.csv", "Prompt,PROMPT\na,b\n", "more than one column 'prompt'"),
    "blank cell": ("a.csv", 'prompt\nfine\n"  "\n', "row 2: blank prompt"),
    "not UTF-8": ("a.csv", "prompt\nfine\ncaf\u00e9\n".encode("cp1252"), r"not UTF-8 text \(byte 15\).* line 3"),
    "NUL": ("a.csv", b"prompt\nfine\nb\0d\n", "NUL character in line 3"),
    "UTF-16 without a mark": ("a.csv", "prompt\nfine\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
    "half of UTF-16": ("a.csv", "prompt\nfine\n".encode("utf-16")[:-1], "not UTF-8 text .*UTF-16"),
    "gzip that is cut": ("a.csv.gz", gzip.compress(MANY.encode())[:-9], "no. a whole gzip file"),
    "no gzip": ("a.csv.gz", MANY, "not a whole gzip file"),
    "no column": ("a.csv", "ask;label\nx;1\n", "no prompt column .*found ask;label"),
    "json that is cut": ("a.jsonl", '{"prompt": "a"}\n{"prompt": "b", "x', "line 2: not valid JSON"),
    "array that is cut": ("a.json", '[{"prompt": "a"},\n{"prompt": "b', "line 2, column"),
    "array in jsonl that is cut": ("a.jsonl", '[{"prompt": "a"},\n{"prompt": "b', "line 2, column"),
    "object over lines that is cut": ("a.json", '{\n"prompt": "a",\n"b', "line 3, column"),
    "NaN": ("a.jsonl", '{"prompt": "a"}\n{"prompt": NaN}\n', "line 2: no prompt but NoneType"),
    "number": ("a.jsonl", '{"prompt": "a"}\n{"prompt": 17}\n', "line 2: no prompt but int"),
    "numbers": ("a.jsonl", "1\n2\n", "line 1: expected a JSON object with a prompt, got int"),
    "a number too many": ("a.jsonl", '{"prompt": "a"}\n{"prompt": "b", "x": ' + "9" * 5000 + "}\n", "line 2: "),
    "a key twice": (
        "a.jsonl",
        '{"prompt": "a"}\n{"prompt": "b", "prompt": "c"}\n',
        "line 2: key 'prompt' appears twice",
    ),
    "half a surrogate pair": ("a.jsonl", '{"prompt": "a"}\n{"prompt": "how \\ud83d"}\n', "line 2: half of a surrogate"),
    "half a pair in a turn": (
        "a.jsonl",
        json.dumps({"prompt": [{"role": "system", "content": "\ud83d"}, *turns("b")]}),
        "line 1: half of a surrogate",
    ),
    "half a pair in an id": ("a.jsonl", '{"id": "\\udc00", "prompt": "b"}', "line 1: half of a surrogate"),
    "text among objects": (
        "a.jsonl",
        '{"prompt": "a"}\n"b"\n',
        "line 2: expected a JSON object with a prompt, got str",
    ),
    "object among texts": ("a.jsonl", '"a"\n{"prompt": "b"}\n', "line 2: expected a text or a list of messages"),
    "image": (
        "a.jsonl",
        json.dumps({"messages": [{"role": "user", "content": IMAGE}]}),
        "line 1: .*turn 1 holds a part of type 'image_url'; only text",
    ),
    "turn without a role": ("a.jsonl", '{"messages": [{"content": "a"}]}', "line 1: .*turn 1 has no role"),
    "turn that is a text": ("a.jsonl", '{"messages": ["a", "b"]}', "line 1: .*turn 1 is str"),
    "no turn of the user": (
        "a.jsonl",
        '{"conversations": [{"from": "gpt", "value": "a"}]}',
        "line 1: .*no turn of the user",
    ),
    "no messages": ("a.jsonl", '{"messages": []}', "line 1: no prompt but nothing"),
    "nested": ("a.jsonl", '{"prompt": ' + "[" * 100_000, "line 1: not valid JSON"),
    "parquet that is cut": ("a.parquet", parquet(ROWS)[:-9], "not a readable parquet file"),
    "number in parquet": ("a.parquet", parquet([{"prompt": 1.5}]), "row 1: no prompt but float"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_cannot_be_read_whole_is_one_line(name: str, tmp_path: Path) -> None:
    file, content, message = MALFORMED[name]
    with pytest.raises(UserError, match=message) as caught:
        load_prompts(write(tmp_path / file, content), flag="--goals")
    said = str(caught.value)
    assert said.startswith("--goals: ")
    assert file in said
    assert "\n" not in said


def test_csv_without_quotes_and_with_backslashes(tmp_path: Path) -> None:
    """As `csv.writer(quoting=QUOTE_NONE, escapechar="\\\\")` and MySQL write it."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_NONE, escapechar="\\", lineterminator="\n")
    writer.writerows([["prompt", "id"], *([text, str(n)] for n, text in enumerate(LINES))])
    assert [p.text for p in load_prompts(write(tmp_path / "a.csv", out.getvalue()))] == list(LINES)
    bare = 'prompt,target\nHe said \\"hi\\" to me,Sure\nuse C:\\new,Sure\n'
    assert [p.text for p in load_prompts(write(tmp_path / "b.csv", bare))] == ['He said "hi" to me', "use C:\\new"]


def test_backslashes_that_escape_nothing(tmp_path: Path) -> None:
    texts = ["ends with \\", 'prints \\"hi\\"', "$a\\,b$ and \\\\", 'plain "quotes"', '\\"']
    pd.DataFrame({"prompt": texts, "n": range(5)}).to_csv(tmp_path / "a.csv", index=False)
    assert [p.text for p in load_prompts(str(tmp_path / "a.csv"))] == texts


def test_a_text_longer_than_the_csv_module_likes(tmp_path: Path) -> None:
    (prompt,) = load_prompts(write(tmp_path / "a.csv", "prompt\n" + "word " * 60_000 + "\n"))
    assert len(prompt.text) == 5 * 60_000 - 1


QUESTION = '{"prompt": "Which one?\\nA. this\\nB. that", "answer": "A", "response": "x", "template": "[PROMPT]"}'
READERS: dict[str, Callable[[str], Any]] = {
    "goals": load_prompts,
    "judge": lambda file: read_rows(Path(file), None),
    "choices": load_questions,
    "tasks": lambda file: checked_rows(file, ["prompt", "answer"]),
    "templates": load_templates,
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
class TestEveryReaderOfUsersFiles:
    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
    @pytest.mark.parametrize("end", ["", "\n", "\r\n"])
    def test_marks_and_line_ends(self, reader: Callable[[str], Any], encoding: str, end: str, tmp_path: Path) -> None:
        assert len(reader(write(tmp_path / "a.JSONL", (QUESTION + end).encode(encoding)))) == 1

    @pytest.mark.parametrize(
        "last", ['{"prompt": "b", "resp', '{"prompt": "\\ud83d", "response": "\\ud83d", "answer": ""}']
    )
    def test_no_row_is_lost(self, reader: Callable[[str], Any], last: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"a\.jsonl, line 2: ") as caught:
            reader(write(tmp_path / "a.jsonl", f"{QUESTION}\n{last}"))
        assert "\n" not in str(caught.value)


def test_empty_cells_of_pandas_are_null(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"a": NaN, "b": [-Infinity, 1e999, 0.5]}\n')
    assert read_json_rows(file, "FILE") == [{"a": None, "b": [None, None, 0.5]}]
    assert parse_json("[1, 2.5, true]") == [1, 2.5, True]


def test_rows_of_json_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"FILE: .*a\.csv has an unsupported extension; expected rows of JSON"):
        read_json_rows(write(tmp_path / "a.csv", MANY), "FILE")
