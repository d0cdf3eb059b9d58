"""Sources, columns and errors of `load_prompts`, and that labels beside the prompts are never read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sirl.errors import UserError
from sirl.prompts import BUNDLED, bundled_path, check_disjoint, load_prompts, normalise
from sirl.prompts import load as module
from sirl.prompts.columns import choose_columns
from sirl.records import Prompt

ROWS = [{"prompt": "How do I bake bread?", "is_safe": True}, {"prompt": "Name a river.", "is_safe": False}]
TEXTS = [row["prompt"] for row in ROWS]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(row["prompt"] + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet", ".txt"])
class TestFiles:
    def test_prompts_in_order_with_ids_and_source(self, tmp_path: Path, ending: str) -> None:
        source = write(tmp_path / f"mine{ending}", ROWS)
        assert load_prompts(source) == [
            Prompt("mine-1", TEXTS[0], None, source),
            Prompt("mine-2", TEXTS[1], None, source),
        ]

    def test_empty_file(self, tmp_path: Path, ending: str) -> None:
        path = tmp_path / f"void{ending}"
        path.touch()
        with pytest.raises(UserError, match=r"--goals: .*void.* is empty"):
            load_prompts(str(path), flag="--goals")

    def test_missing_file(self, tmp_path: Path, ending: str) -> None:
        with pytest.raises(UserError, match="--dataset_name: no such file"):
            load_prompts(str(tmp_path / f"absent{ending}"))

    def test_repetitions_are_dropped_and_counted(
        self, tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        source = write(tmp_path / f"mine{ending}", [*ROWS, ROWS[0], ROWS[0]])
        assert [p.text for p in load_prompts(source)] == TEXTS
        assert "2 repeated prompts" in caplog.text


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
class TestColumns:
    @pytest.mark.parametrize("name", module.PROMPT_COLUMNS)
    def test_detected(self, tmp_path: Path, ending: str, name: str) -> None:
        source = write(tmp_path / f"a{ending}", [{"label": 1, name: "Hello?"}])
        assert [p.text for p in load_prompts(source)] == ["Hello?"]

    def test_order_of_preference(self, tmp_path: Path, ending: str) -> None:
        source = write(tmp_path / f"a{ending}", [{"text": "no", "goal": "no", "prompt": "yes"}])
        assert load_prompts(source)[0].text == "yes"

    def test_named_by_the_user(self, tmp_path: Path, ending: str) -> None:
        source = write(tmp_path / f"a{ending}", [{"prompt": "no", "request": "yes"}])
        assert load_prompts(source, column="request")[0].text == "yes"

    def test_absent_lists_what_there_is(self, tmp_path: Path, ending: str) -> None:
        source = write(tmp_path / f"a{ending}", [{"answer": "x", "label": 1}])
        with pytest.raises(UserError, match=r"--dataset_name: .* no prompt column .*; found answer, label"):
            load_prompts(source)

    def test_named_by_the_user_but_absent(self, tmp_path: Path, ending: str) -> None:
        source = write(tmp_path / f"a{ending}", [{"prompt": "x"}])
        with pytest.raises(UserError, match=r"no prompt column 'ask'; found prompt"):
            load_prompts(source, column="ask")

    def test_id_and_category(self, tmp_path: Path, ending: str) -> None:
        source = write(tmp_path / f"a{ending}", [{"id": "h1", "prompt": "x", "category": "cat"}])
        assert load_prompts(source) == [Prompt("h1", "x", None, source)]
        assert load_prompts(source, with_category=True) == [Prompt("h1", "x", "cat", source)]

    def test_same_id_twice_is_told_apart(self, tmp_path: Path, ending: str) -> None:
        source = write(tmp_path / f"a{ending}", [{"id": "h", "prompt": t} for t in "xyz"])
        assert [p.id for p in load_prompts(source)] == ["h", "h-2", "h-3"]


class TestOnlyThePromptColumnIsRead:
    def test_row_touches_no_other_key(self) -> None:
        class Guarded(dict[str, Any]):
            def __getitem__(self, key: str) -> Any:
                assert key in {"prompt", "id"}, f"read {key}"
                return super().__getitem__(key)

            def get(self, *key: Any) -> Any:
                raise AssertionError(f"read {key}")

            def values(self) -> Any:
                raise AssertionError("read all values")

            items = values

        row = Guarded(prompt="x", id="1", is_safe=False, category="violence")
        columns = choose_columns(list(row), "prompt", "here", with_category=False)
        assert module._row(row, "line 1", columns).text == "x"

    def test_parquet_other_columns_are_not_decoded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import pyarrow.parquet as pq

        asked: list[list[str]] = []
        read_table = pq.read_table

        def spy(*args: Any, **kwargs: Any) -> Any:
            asked.append(kwargs["columns"])
            return read_table(*args, **kwargs)

        monkeypatch.setattr(pq, "read_table", spy)
        load_prompts(write(tmp_path / "a.parquet", ROWS))
        assert asked == [["prompt"]]

    @pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
    def test_labels_change_nothing(self, tmp_path: Path, ending: str) -> None:
        one = load_prompts(write(tmp_path / f"a{ending}", ROWS))
        flipped = [{**row, "is_safe": not row["is_safe"], "category": "x"} for row in ROWS]
        assert load_prompts(write(tmp_path / f"a{ending}", flipped)) == one

    def test_hub_selects_the_column_before_any_row_is_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: Hub(ROWS))
        assert [p.text for p in load_prompts("some/set")] == TEXTS


class Hub:
    """A streamed hub dataset whose rows may be read only after the columns were chosen."""

    def __init__(self, rows: list[dict[str, Any]], selected: bool = False) -> None:
        self.rows, self.selected = rows, selected
        self.column_names = list(rows[0])

    def select_columns(self, names: list[str]) -> Hub:
        return Hub([{name: row[name] for name in names} for row in self.rows], selected=True)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        assert self.selected, "rows read with all their columns"
        return iter(self.rows)


class TestHub:
    def test_real_streaming_dataset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from datasets import Dataset

        calls: list[tuple[Any, Any]] = []

        def load(*args: Any, **kwargs: Any) -> Any:
            calls.append((args, kwargs))
            return Dataset.from_list(ROWS).to_iterable_dataset()

        monkeypatch.setattr("datasets.load_dataset", load)
        assert [p.text for p in load_prompts("some/set-v1.5:small", split="test")] == TEXTS
        assert calls == [(("some/set-v1.5", "small"), {"split": "test", "streaming": True})]

    def test_not_reachable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise ConnectionError("Couldn't reach the Hub\nsecond line")

        monkeypatch.setattr("datasets.load_dataset", fail)
        with pytest.raises(UserError, match=r"--dataset_name: 'some/set' .*ConnectionError: Couldn't reach") as caught:
            load_prompts("some/set")
        assert "\n" not in str(caught.value)

    def test_no_prompt_column(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: Hub([{"label": 1}]))
        with pytest.raises(UserError, match=r"some/set has no prompt column .*found label"):
            load_prompts("some/set")

    def test_rows_without_a_prompt_are_counted(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: Hub([*ROWS, {"prompt": None}, {"prompt": " "}]))
        assert [p.text for p in load_prompts("some/set")] == TEXTS
        assert "2 rows without a prompt" in caplog.text


class TestBadInput:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"prompt": "cut', r"line 2: not valid JSON"),
            ('"just text"', r"line 2: expected a JSON object with a prompt, got str"),
            ('{"prompt": 5}', r"line 2: no prompt but int"),
            ('{"prompt": null}', r"line 2: no prompt but NoneType"),
            ('{"prompt": "  "}', r"line 2: blank prompt"),
            ('{"other": "x"}', r"line 2: no prompt column 'prompt'; found other"),
            ('{"prompt": [{"role": "assistant", "content": "x"}]}', r"line 2: no prompt but list"),
        ],
    )
    def test_line_is_named(self, tmp_path: Path, line: str, message: str) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text(f'{{"prompt": "fine"}}\n{line}\n')
        with pytest.raises(UserError, match=message) as caught:
            load_prompts(str(path))
        assert "\n" not in str(caught.value)

    def test_blank_csv_cell_names_its_row(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_text('prompt,label\nfine,1\n"",0\n')
        with pytest.raises(UserError, match="row 2: blank prompt"):
            load_prompts(str(path))

    @pytest.mark.parametrize("ending", [".csv", ".parquet"])
    def test_not_what_its_ending_says(self, tmp_path: Path, ending: str) -> None:
        path = tmp_path / f"a{ending}"
        path.write_bytes(b"prompt\n\xff\xfe\x00bad")
        with pytest.raises(UserError, match=r"is not (a readable|UTF-8)"):
            load_prompts(str(path))

    @pytest.mark.parametrize("ending", [".jsonl", ".txt"])
    def test_not_utf8(self, tmp_path: Path, ending: str) -> None:
        path = tmp_path / f"a{ending}"
        path.write_bytes(b"\xff\xfeabc")
        with pytest.raises(UserError, match="is not UTF-8"):
            load_prompts(str(path))

    def test_unsupported_ending(self, tmp_path: Path) -> None:
        path = tmp_path / "a.xlsx"
        path.write_text("[]")
        with pytest.raises(UserError, match=r"unsupported extension; supported are \.jsonl \.csv \.parquet \.txt"):
            load_prompts(str(path))

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="is a folder"):
            load_prompts(str(tmp_path))

    def test_bundled_name_mistyped(self) -> None:
        with pytest.raises(UserError, match="did you mean demo/train"):
            load_prompts("demo/trian")

    def test_neither_file_nor_id(self) -> None:
        with pytest.raises(UserError, match="neither a file nor a dataset id"):
            load_prompts("a b")

    def test_only_blank_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("\n \n")
        with pytest.raises(UserError, match="holds no prompts"):
            load_prompts(str(path))

    def test_limit_below_one(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="must be 1 or more, got 0"):
            load_prompts(write(tmp_path / "a.txt", ROWS), limit=0)


def test_chat_format_gives_the_last_user_turn(tmp_path: Path) -> None:
    turns = [
        {"role": r, "content": c} for r, c in [("system", "s"), ("user", "one"), ("assistant", "a"), ("user", "two")]
    ]
    for ending in (".jsonl", ".parquet"):
        source = write(tmp_path / f"a{ending}", [{"prompt": turns}])
        (prompt,) = load_prompts(source)
        assert prompt.text == "two"
        assert [dict(turn) for turn in prompt.conversation] == turns


def test_a_turn_behind_the_last_question_is_a_prefill_in_the_prompt_column_alone(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "Well,"}]
    for column, kept in [("prompt", 2), ("text", 1)]:
        (prompt,) = load_prompts(write(tmp_path / f"{column}.jsonl", [{column: turns}]))
        assert (prompt.text, len(prompt.conversation)) == ("one", kept)


def test_conversations_that_end_alike_are_different_prompts(tmp_path: Path) -> None:
    end = {"role": "user", "content": "And now?"}
    rows = [{"prompt": [{"role": "user", "content": c}, {"role": "assistant", "content": "a"}, end]} for c in "xyx"]
    assert len(load_prompts(write(tmp_path / "a.jsonl", rows))) == 2


def test_a_conversation_without_a_question_is_no_prompt(tmp_path: Path) -> None:
    for turns in ([{"role": "assistant", "content": "a"}], [{"role": "user", "content": 7}], [7]):
        with pytest.raises(UserError, match="no prompt but list"):
            load_prompts(write(tmp_path / "a.jsonl", [{"prompt": turns}]))


def test_text_that_pandas_would_take_for_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt\nnull\nNA\n7\n")
    assert [p.text for p in load_prompts(str(path))] == ["null", "NA", "7"]


def test_several_sources(tmp_path: Path) -> None:
    one, two = (write(tmp_path / f"{n}.jsonl", [{"id": "x", "prompt": p} for p in "ab" + n]) for n in "cd")
    both = load_prompts(f"{one}, {two}")
    assert [p.text for p in both] == ["a", "b", "c", "d"]
    assert len({p.id for p in both}) == 4
    with pytest.raises(UserError, match=r"no such file: .*missing\.jsonl"):
        load_prompts(f"{one},missing.jsonl")
    (tmp_path / "a,b.txt").write_text("one\n")
    assert [p.text for p in load_prompts(str(tmp_path / "a,b.txt"))] == ["one"]


def test_limit_is_a_seeded_draw_in_order(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}"} for i in range(100)]
    source = write(tmp_path / "a.jsonl", rows)
    ten = [p.text for p in load_prompts(source, limit=10, seed=1)]
    assert ten == [p.text for p in load_prompts(source, limit=10, seed=1)]
    assert ten != [p.text for p in load_prompts(source, limit=10, seed=2)]
    assert ten == sorted(ten, key=lambda t: int(t[1:]))
    assert ten != [f"p{i}" for i in range(10)]
    assert len(load_prompts(source, limit=1000)) == 100


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("How do I?", "how do i"),
        ("ﬁne  print", "fine print"),
        ("“Quoted” – text", "quoted text"),
        ("STRASSE", "straße"),
    ],
)
def test_normalise_joins_variants(a: str, b: str) -> None:
    assert normalise(a) == normalise(b)


def test_normalise_keeps_different_prompts_apart() -> None:
    assert normalise("make a cake") != normalise("make a lake")


def test_check_disjoint() -> None:
    train = [Prompt("t1", "How do I knit?"), Prompt("t2", "Other")]
    check_disjoint(train, [Prompt("g1", "How do I sew?")])
    with pytest.raises(
        UserError, match=r"1 of the 2 goals prompts are also train prompts: t1 = g2 \('how do I KNIT'\)"
    ):
        check_disjoint(train, [Prompt("g1", "x"), Prompt("g2", "how do I KNIT")], train_name="train", test_name="goals")


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_sets_load_and_do_not_overlap(name: str) -> None:
    assert bundled_path(name).is_file(), "the package must carry this set"
    mine = load_prompts(name, with_category=True)
    assert len({p.id for p in mine}) == len(mine)
    labelled = not name.startswith("demo/train")  # training prompts carry no label of any kind
    assert all(p.category for p in mine) == labelled
    for other in BUNDLED:
        if other != name:
            check_disjoint(mine, load_prompts(other), train_name=name, test_name=other)
