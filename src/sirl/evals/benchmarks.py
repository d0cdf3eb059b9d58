"""Capability before and after hardening, benchmark by benchmark: which there are, and what two models' rows say.

A row is `id`, `figures` (name -> number, None where it could not be scored), `chance` (what guessing gives, None where
there is no right answer), `prompt` and `response`. Nothing here needs lm-evaluation-harness; `sirl.evals.harness` does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from sirl.diversity import commonest_sentence, sentences
from sirl.errors import UserError
from sirl.evals.sandbox import check_sandbox
from sirl.evals.tasks import glue
from sirl.inputs.comma_list import comma_list
from sirl.inputs.user_files import read_text
from sirl.inputs.yaml_text import parse_yaml
from sirl.stats import bootstrap_ratio, mcnemar, mean_of, paired_difference, wilson_interval

FOLDER = Path(str(resources.files("sirl.evals.tasks")))
OURS = ("gsm8k", "math", "mbpp", "humaneval", "arc", "ifeval", "chat")
LUCK = 0.01
"""What guessing is taken to give where answers are open: a lucky hit in a hundred is no ability."""

Table = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: a task definition of ours with its data, or the harness's task of that name, which it also looks
    for in the folder `include`."""

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    include: Path | None = None

    @property
    def slug(self) -> str:
        """The name as a file name."""
        return re.sub(r"[^\w.-]+", "_", self.name)


def resolve(specs: str, data_dir: str | None, allow_code_execution: bool) -> list[Benchmark]:
    """Benchmarks by their names with commas: one of `OURS` over its file in `data_dir`, `NAME=FILE` over that file,
    `file:TASK.yaml` for a task definition of the user's, and any other name is the harness's own.

    Raises:
        UserError: there is no such file, a row does not fit, or code would have to be run and may not be, or cannot be
            isolated.
    """
    found = [_resolve(spec, data_dir) for spec in comma_list(specs)]
    for benchmark in found:
        if benchmark.config.get("unsafe_code") and not allow_code_execution:
            raise UserError(
                f"--tasks {benchmark.name}: runs programs that the model writes; add --allow_code_execution if you "
                "accept that (docs/eval.md says within which limits)"
            )
        if benchmark.config.get("unsafe_code"):
            check_sandbox(f"--tasks {benchmark.name}")
    if len({b.slug for b in found}) < len(found):
        raise UserError(f"--tasks {specs}: a benchmark is named twice")
    return found


def _resolve(spec: str, data_dir: str | None) -> Benchmark:
    name, equals, file = spec.partition("=")
    if spec.startswith("file:"):
        path = Path(spec.removeprefix("file:")).expanduser()
        task = definition(path).get("task") if path.is_file() and path.suffix in (".yaml", ".yml") else None
        if not isinstance(task, str):
            raise UserError(f"--tasks {spec}: expected a task definition of lm-evaluation-harness, a .yaml with `task`")
        return Benchmark(task, include=path.parent)
    if name in OURS and (equals or data_dir):
        config = definition(FOLDER / f"{name}.yaml")
        settings = {**config["dataset_kwargs"], "file": file or _find(name, str(data_dir))}
        glue.checked_rows(**settings)
        return Benchmark(name, {**config, "dataset_kwargs": settings})
    if equals or name == "chat":
        raise UserError(f"--tasks {spec}: expected NAME=FILE, NAME one of {', '.join(OURS)}, or --data_dir")
    return Benchmark(name)


def _find(name: str, data_dir: str) -> str:
    files = sorted(Path(data_dir).expanduser().glob(f"{name}*.jsonl"))
    if len(files) != 1:
        what = "more than one" if files else "no"
        raise UserError(f"--tasks {name}: {what} {name}*.jsonl in --data_dir {data_dir}; name the file: {name}=FILE")
    return str(files[0])


class _Loader(yaml.SafeLoader):
    """YAML with the harness's `!function MODULE.NAME`; functions other than ours are left to the harness."""


_Loader.add_constructor("!function", lambda _, node: getattr(glue, node.value.removeprefix("glue."), None))


def definition(path: Path) -> Table:
    """A task definition in the form of lm-evaluation-harness."""
    try:
        config = parse_yaml(read_text(path, "--tasks"), _Loader)
    except ValueError as error:
        raise UserError(f"--tasks: {path}: not readable as YAML ({error})") from None
    return config if isinstance(config, dict) else {}


# --- before against after -----------------------------------------------------------------------------------------


def compare(before: Sequence[Table], after: Sequence[Table]) -> Table:
    """What the rows of two models on one benchmark say, over the rows that both have.

    Keys: `rows`, `chance`, `able` (whether the first figure of the base model is above chance by its interval; None
    where there is no right answer), `figures` (see `_figure`), and where answers are open `commonest_opening` before
    and after: the share of answers with one first sentence, in any wording.
    """
    later = {row["id"]: row for row in after}
    pairs = [(row, later[row["id"]]) for row in before if row["id"] in later]
    if not pairs:
        raise ValueError("the two models have no row in common")
    names = list(dict.fromkeys(name for row, _ in pairs for name in row["figures"]))
    figures = {name: _figure([(a["figures"].get(name), b["figures"].get(name)) for a, b in pairs]) for name in names}
    chance = mean_of(a["chance"] for a, _ in pairs if a["chance"] is not None)
    start = figures[names[0]]["before"]
    out: Table = {
        "rows": len(pairs),
        "chance": chance,
        "able": None if chance is None or start is None else start["low"] > chance,
        "figures": figures,
    }
    if chance is None:
        texts = {"before": [a["response"] for a, _ in pairs], "after": [b["response"] for _, b in pairs]}
        out["commonest_opening"] = {p: commonest_sentence([sentences(t)[:1] for t in texts[p]]).share for p in texts}
    return out


def _figure(pairs: Sequence[tuple[float | None, float | None]]) -> Table:
    """One figure over pairs of rows: `before`, `after` and `difference` (after - before), each `value`, `low`, `high`.

    The difference's interval is that of Agresti and Min over the pairs where rows are right or wrong, which then also
    have `lost`, `gained` and `p` (McNemar, exact), else a bootstrap over the pairs (Efron, 1979). `change` is "none"
    where it holds 0, else "rose" or "fell". `unscored` rows are in none of it.
    """
    scored = [(a, b) for a, b in pairs if a is not None and b is not None]
    out: Table = {"n": len(scored), "unscored": len(pairs) - len(scored), "before": None, "after": None}
    if not scored:
        return {**out, "difference": None, "change": None}
    columns = [list(column) for column in zip(*scored, strict=True)]
    binary = all(x in (0.0, 1.0) for column in columns for x in column)
    out["before"], out["after"] = (_share(column) if binary else _mean(column) for column in columns)
    gap = _mean([b - a for a, b in scored])
    if binary:
        lost, gained = sum(a > b for a, b in scored), sum(a < b for a, b in scored)
        gap = asdict(paired_difference(lost, gained, len(scored)))
        out |= {"lost": lost, "gained": gained, "p": mcnemar(lost, gained)}
    out["difference"] = gap
    out["change"] = "rose" if gap["low"] > 0 else "fell" if gap["high"] < 0 else "none"
    return out


def _share(values: Sequence[float]) -> Table:
    low, high = wilson_interval(int(sum(values)), len(values))
    return {"value": sum(values) / len(values), "low": low, "high": high}


def _mean(values: Sequence[float]) -> Table:
    return asdict(bootstrap_ratio(values, [1.0] * len(values)))


def statement(found: Mapping[str, Any]) -> str:
    """What a comparison says, in words; only its first figure has a say."""
    first = next(iter(found["figures"].values()))
    if first["difference"] is None:
        return "nothing could be scored"
    if found["able"] is False:
        return "beyond the base model"
    change = first["change"]
    return "within the noise" if change == "none" else f"{change} by more than the noise"
