"""Datasets of the hub, streamed: `org/name`, `org/name:config`, with `@split`, `#revision` or both behind either."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sirl.errors import UserError

log = logging.getLogger(__name__)

FORM = "org/name:config@split"
_HUB_ID = re.compile(
    r"(?P<path>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.+-]+))?(@(?P<split>[\w.-]+))?(#(?P<revision>[\w./-]+))?"
)
_SPLITS = re.compile(r"(?:Available splits: |Unknown split .*Should be one of )\[(.*?)\]", re.DOTALL)
_CONFIGS = re.compile(r"(?:BuilderConfig .* not found\. Available: |available configs: )\[(.*?)\]", re.DOTALL)


@dataclass(frozen=True)
class HubName:
    """A dataset of the hub, taken apart."""

    path: str
    config: str | None
    split: str
    revision: str | None = None
    """A commit, branch or tag of the dataset's repository; None: its newest version."""

    @classmethod
    def parse(cls, source: str, split: str = "train") -> HubName | None:
        """The parts of `org/name:config@split#revision`, or None where `source` is no such name. `split` is for want
        of one."""
        found = _HUB_ID.fullmatch(source)
        return cls(found["path"], found["config"], found["split"] or split, found["revision"]) if found else None


@dataclass(frozen=True)
class HubSet:
    """A published set on the hub: its columns, and the column and value that mark benign rows (None: all are)."""

    source: str
    split: str
    category: str
    safe: tuple[str, str] | None = None
    prompt: str = "prompt"

    @property
    def columns(self) -> list[str]:
        """Those that are read."""
        return list(dict.fromkeys((self.prompt, self.category, *(self.safe or ())[:1])))

    @property
    def wanted(self) -> str:
        """What a file has to hold that takes the set's place, in words."""
        rows = f", its rows whose {self.safe[0]} is {self.safe[1]}" if self.safe else ""
        return f"split {self.split}{rows}, with the columns {' and '.join(dict.fromkeys((self.prompt, self.category)))}"


HUB_SETS = {
    "xstest": HubSet("walledai/XSTest", "test", "type", safe=("label", "safe")),
    "or-bench": HubSet("bench-llm/or-bench:or-bench-hard-1k", "train", "category"),
    "or-bench-80k": HubSet("bench-llm/or-bench:or-bench-80k", "train", "category"),
    "wildjailbreak-benign": HubSet(
        "allenai/wildjailbreak:eval", "train", "data_type", ("data_type", "adversarial_benign"), "adversarial"
    ),
    "jbb-benign": HubSet("JailbreakBench/JBB-Behaviors:behaviors", "benign", "Category", prompt="Goal"),
    "coconot-contrast": HubSet("allenai/coconot:contrast", "test", "category"),
}
"""Names for published sets of benign prompts: XSTest (250), OR-Bench (its hard 1K, or whole), WildJailbreak's 210 in
jailbreak form, the 100 counterparts of JailbreakBench's behaviours, CoCoNot's contrast set (379)."""


def hub_rows(
    source: str, split: str, flag: str, choose: Callable[[Sequence[str]], list[str]], known: str = ""
) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """Some columns of a dataset, those that `choose` picks of all, and its rows, one after the other as they come.

    `known` is what else the user could have meant.

    Raises:
        UserError: the hub has no such dataset, config or split (named in the message, with those that there are), or
            the rows cannot be read; these come while iterating, too.
    """
    import datasets

    name = HubName.parse(source, split)
    if name is None:
        raise UserError(f"{flag}: {source!r} is neither a file nor a dataset id ({FORM})")
    log.info("reading %s (%s) from the hub", source, name.split)
    try:
        version = {"revision": name.revision} if name.revision else {}
        stream = datasets.load_dataset(name.path, name.config, split=name.split, streaming=True, **version)
        columns = choose(stream.column_names or list(next(iter(stream), {})))
        rows = iter(stream.select_columns(columns))
    except UserError:
        raise
    except Exception as error:  # a builder can fail in any way; what the user can do about it is the same
        raise UserError(_advice(error, name, source, flag, known)) from error
    return columns, _guarded(rows, name, source, flag, known)


def _guarded(
    rows: Iterator[dict[str, Any]], name: HubName, source: str, flag: str, known: str
) -> Iterator[dict[str, Any]]:
    """The rows; an error on the way is the user's to read as well."""
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # as above: files are only fetched now
            raise UserError(_advice(error, name, source, flag, known)) from error
        yield row


def _advice(error: Exception, name: HubName, source: str, flag: str, known: str) -> str:
    """What to do about it, in one line: the splits or configs that there are, or what the hub said."""
    words = str(error)
    own = f"{name.path}:{name.config}" if name.config else name.path
    if splits := _listed(_SPLITS, words):
        return (
            f"{flag}: {own} on the hub has no split {name.split!r}; there are {', '.join(splits)}: name one, as in "
            f"{own}@{splits[0]}"
        )
    if configs := _listed(_CONFIGS, words):
        lack = f"has no config {name.config!r}" if name.config else "has several configs"
        return (
            f"{flag}: {name.path} on the hub {lack}; there are {', '.join(configs)}: name one, as in "
            f"{name.path}:{configs[0]} or {name.path}:{configs[0]}@{name.split}"
        )
    first = (words.strip() or type(error).__name__).split("\n")[0]
    return (
        f"{flag}: {source!r} is not a file{known}, and the hub gave no dataset of this name, split {name.split!r} "
        f"({type(error).__name__}: {first})"
    )


def _listed(pattern: re.Pattern[str], words: str) -> list[str]:
    """The names in the list of a message."""
    found = pattern.search(words)
    return re.findall(r"['\"]([^'\"]+)['\"]", found[1]) if found else []
