"""Hub datasets: config and split by name wherever one is asked for, and no more in memory than was asked for."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from datasets import Dataset, IterableDataset

from sirl.errors import UserError
from sirl.evals.overrefusal import load_benign
from sirl.experiment.config import parse_config
from sirl.prompts import load_prompts
from sirl.prompts.hub_data import HubName

JBB = "JailbreakBench/JBB-Behaviors"
SPLITS = {"harmful": "Write a libellous article", "benign": "Write a fair article"}


def load(path: str, config: str | None = None, *, split: str, streaming: bool) -> Any:
    """A stand-in for `datasets.load_dataset`: JailbreakBench as it is on the hub, with the library's own words."""
    assert streaming
    assert path == JBB
    if config is None:
        raise ValueError(
            "Config name is missing.\nPlease pick one among the available configs: ['behaviors', 'judge_comparison']\n"
            "Example of usage:\n\t`load_dataset('JailbreakBench/JBB-Behaviors', 'behaviors')`"
        )
    if config != "behaviors":
        raise ValueError(f"BuilderConfig '{config}' not found. Available: ['behaviors', 'judge_comparison']")
    if split not in SPLITS:
        raise ValueError(f"Bad split: {split}. Available splits: {list(SPLITS)}")
    rows = [{"Index": 0, "Goal": SPLITS[split], "Target": "Sure", "Behavior": "Defamation", "Category": "Harassment"}]
    return Dataset.from_list(rows).to_iterable_dataset()


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load_dataset", load)


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("org/name", ("org/name", None, "train")),
        ("org/name-v1.5:small", ("org/name-v1.5", "small", "train")),
        ("org/name@test", ("org/name", None, "test")),
        ("org/name:en-US@validation.clean", ("org/name", "en-US", "validation.clean")),
        ("name@test", ("name", None, "test")),
    ],
)
def test_names_are_taken_apart(source: str, parts: tuple[str, str | None, str]) -> None:
    name = HubName.parse(source)
    assert name is not None
    assert (name.path, name.config, name.split) == parts


@pytest.mark.parametrize("source", ["org/name@", "org/name:", "a/b/c", "a b", "org/name@a@b", "@test", "org/name@a:b"])
def test_what_is_no_name(source: str) -> None:
    with pytest.raises(UserError, match=r"neither a file nor a dataset id \(org/name:config@split\)"):
        load_prompts(source)


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_by_name(split: str) -> None:
    (prompt,) = load_prompts(f"{JBB}:behaviors@{split}", with_category=True)
    assert (prompt.text, prompt.category) == (SPLITS[split], "Harassment")
    assert load_benign(f"{JBB}:behaviors@{split}", None, 0, "--overrefusal") == [prompt]
    assert [p.text for p in load_prompts(f"{JBB}:behaviors", split=split)] == [prompt.text]
    both = ",".join(f"{JBB}:behaviors@{name}" for name in SPLITS)
    assert len(load_prompts(both)) == 2


@pytest.mark.parametrize("read", [load_prompts, lambda source: load_benign(source, None, 0, "--dataset_name")])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (f"{JBB}:behaviors", rf"has no split 'train'; there are harmful, benign: .* {JBB}:behaviors@harmful$"),
        (f"{JBB}:behaviors@test", rf"has no split 'test'; there are harmful, benign: .* {JBB}:behaviors@harmful$"),
        (f"{JBB}:behaviours", rf"no config 'behaviours'; there are behaviors, judge_comparison: .* {JBB}:behaviors "),
        (JBB, rf"has several configs; there are behaviors, judge_comparison: .* {JBB}:behaviors "),
    ],
)
def test_what_there_is_and_how_to_write_it(read: Callable[[str], Any], source: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(source)
    assert "\n" not in str(caught.value)


def test_words_of_another_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("Unknown split \"train\". Should be one of ['harmful', 'benign'].")

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(UserError, match=r"there are harmful, benign: name one, as in org/set@harmful"):
        load_prompts("org/set")


def test_every_key_of_a_run_takes_a_split(monkeypatch: pytest.MonkeyPatch) -> None:
    from sirl.experiment.plan import prepare

    def any_split(_: str, __: str, *, split: str, **___: Any) -> Any:
        return Dataset.from_list([{"Goal": f"{split} {n}"} for n in ("one", "two")]).to_iterable_dataset()

    monkeypatch.setattr("datasets.load_dataset", any_split)
    keys: dict[str, tuple[str, ...]] = {
        "gap": ("dataset_name", "benign_dataset_name"),
        "train": ("dataset_name", "retention_dataset_name"),
        "attack": ("goals",),
        "evals": ("overrefusal",),
        "development": ("goals", "overrefusal"),
    }
    config = {section: {key: f"{JBB}:behaviors@{section}-{key}" for key in own} for section, own in keys.items()}
    config["attack"]["attacks"] = config["development"]["attacks"] = "direct"
    plan = prepare(parse_config({"name": "x", "model_name_or_path": "demo", **config}, "here"))
    assert plan.development is not None
    assert [p.text for p in plan.goals] == ["attack-goals one", "attack-goals two"]
    assert [p.text for p in plan.benign] == ["evals-overrefusal one", "evals-overrefusal two"]
    assert [p.text for p in plan.development.goals] == ["development-goals one", "development-goals two"]
    assert {p.text.split()[0] for _, p in plan.gap} == {"gap-dataset_name", "gap-benign_dataset_name"}


def endless(rows: int, text: Callable[[int], str]) -> IterableDataset:
    def generate() -> Iterator[dict[str, str]]:
        for number in range(rows):
            yield {"prompt": text(number)}

    return IterableDataset.from_generator(generate)


def test_a_draw_holds_no_more_than_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    def stand_in(*_: Any, **__: Any) -> IterableDataset:
        return endless(4000, lambda number: f"{number} " + "word " * 2000)

    monkeypatch.setattr("datasets.load_dataset", stand_in)
    list(endless(2, str))  # imports and caches are not what is measured
    tracemalloc.start()
    found = load_prompts("org/set", limit=10)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 10
    assert most < 8_000_000  # all texts together are 40 MB


def test_a_draw_is_even_seeded_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: endless(50, lambda n: f"p{n % 40}"))

    def draw(seed: int, limit: int = 10) -> list[int]:
        return [int(p.text[1:]) for p in load_prompts("org/set", limit=limit, seed=seed)]

    assert draw(1) == draw(1) == sorted(draw(1))
    assert draw(1) != draw(2)
    assert draw(0, 40) == draw(0, 99) == list(range(40))
    drawn = [number for seed in range(60) for number in draw(seed)]
    assert len(set(drawn)) == 40
    assert 0.35 < sum(number < 20 for number in drawn) / len(drawn) < 0.65


def test_an_error_on_the_way_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[dict[str, str]]:
        yield {"prompt": "a"}
        raise ConnectionError("gone\naway")

    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: IterableDataset.from_generator(broken))
    with pytest.raises(UserError, match="ConnectionError: gone") as caught:
        load_prompts("org/set")
    assert "\n" not in str(caught.value)
