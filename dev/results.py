"""The figures of README.md and docs/results.md: one JSON file a run in docs/results/, and the tables made of them.

    python -m dev.results                      write the tables of both pages again
    python -m dev.results runs/demo --file demo --title "Bundled model, 135M" --log demo-2 --commit 1234567

The second form turns a run folder into `docs/results/demo.json`, replaces the file of that name and writes the tables.
`--log` names the run's entry in dev/LOG.md. Afterwards draw README's picture again with `python -m dev.picture`.

A table stands between `<!-- figures NAMES -->` and `<!-- /figures -->`. A test compares both pages with the files.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
BLOCK = re.compile(r"(<!-- figures ([^>]+) -->\n).*?(<!-- /figures -->)", re.DOTALL)
FIGURES = {
    "dsr": "Static attacks refused (DSR), greedy",
    "dsr_sampled": "Static attacks refused (DSR), temperature 1",
    "benign_refusal": "Benign prompts refused",
    "adversarial_benign": "**Adversarial benign prompts refused** (the price)",
    "dprime": "d': telling harmful from benign in the same wrapping",
}
"""README's five rows; a run may lack some."""
MORE = {
    "worst_case_dsr": "Goals that withstand every attack",
    "rechecked_dsr": "DSR with refusals that were cut off asked again",
    "plain_refusal": "Plain benign prompts refused",
    "sounds_harmful_refusal": "Benign prompts that sound harmful, refused",
    "perplexity": "Perplexity of the base model's answers to benign prompts",
    "easy_questions": "Easy questions answered correctly",
    "one_sentence": "Refusals that contain the commonest sentence",
}
STRONGEST = "What still gets through: goals that the strongest attack breaks"
PLAIN = ("dprime", "perplexity")
"""Figures that are no shares."""
Table = Mapping[str, Any]


def read(name: str) -> dict[str, Any]:
    """One file of docs/results/."""
    data: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return data


def number(value: float, plain: bool = False) -> str:
    """A share as a percentage with one digit, anything else with two."""
    return f"{value:.2f}" if plain else f"{100 * value:.1f}%"


def figure(value: float | Sequence[float] | str | None, plain: bool = False) -> str:
    """A cell: a value, a value with its interval, or words."""
    if value is None or isinstance(value, str):
        return value or "–"
    if isinstance(value, int | float):
        return number(value, plain)
    first, *ends = value
    low, high = (number(end, plain).rstrip("%") for end in ends)
    return f"{number(first, plain)} ({low} to {high})"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows]) + "\n"


def _link(data: Table, page: Path) -> str:
    log = "dev/LOG.md" if page.parent == ROOT else "../dev/LOG.md"
    return ", ".join(f"[log]({log}#{place})" for place in data["log"].split(","))


def glance(names: Sequence[str], page: Path) -> str:
    """README's table: a column for each run, before and after without their intervals, narrow enough for a phone."""
    runs = [read(name) for name in names]
    head = ["before → after", *(run["title"] for run in runs)]
    rows = [
        [words, *(_change(run["figures"].get(key), key in PLAIN) for run in runs)] for key, words in FIGURES.items()
    ]
    rows.append([STRONGEST, *(_strongest(run.get("attacks")) for run in runs)])
    rows.append(["", *(_link(run, page) for run in runs)])
    return _markdown(head, rows)


def _change(phases: Mapping[str, Any] | None, plain: bool) -> str:
    cells = [(phases or {}).get(phase) for phase in ("before", "after")]
    then, now = (figure(cell[0] if isinstance(cell, list) else cell, plain) for cell in cells)
    return f"{then} → **{now}**" if phases else "–"


def _strongest(attacks: Mapping[str, Sequence[float]] | None) -> str:
    """What still gets through: the attack with the lowest DSR after, as the share of goals that it breaks."""
    if not attacks:
        return "–"
    name = min(attacks, key=lambda attack: attacks[attack][1])
    then, now = (number(1 - rate) for rate in attacks[name])
    return f"{then} → **{now}** ({name})"


def block(names: str, page: Path) -> str:
    """The text between the marks of a page."""
    first, *rest = names.split()
    if first == "glance:":
        return glance(rest, page)
    data = read(first)
    older = "**Older configuration.** " if data["status"] == "older" else ""
    said = f"{older}{data['setting']} Commit {data['commit']}, {data['date']}, {_link(data, page)}.\n\n"
    if "figures" in data:
        rows = [
            [words, *(figure(data["figures"][key][phase], key in PLAIN) for phase in ("before", "after"))]
            for key, words in {**FIGURES, **MORE}.items()
            if key in data["figures"]
        ]
        made = _markdown(["", "before", "after"], rows)
        if data.get("attacks"):
            attacks = [[name, *map(figure, pair)] for name, pair in data["attacks"].items()]
            made += "\n" + _markdown(["attack", "before", "after"], attacks)
        return said + made
    plain = data.get("plain", [])
    rows = [
        [figure(cell, column in plain) for column, cell in zip(data["columns"], row, strict=True)]
        for row in data["rows"]
    ]
    return said + _markdown(data["columns"], rows)


def refreshed(page: Path) -> str:
    """A page with its tables written again."""
    text = page.read_text(encoding="utf-8")
    return BLOCK.sub(lambda match: f"{match[1]}\n{block(match[2], page)}\n{match[3]}", text)


def values(data: Any) -> set[float]:
    """All numbers of a file."""
    if isinstance(data, bool) or data is None:
        return set()
    if isinstance(data, int | float):
        return {float(data)}
    if isinstance(data, Mapping | list):
        return set().union(*(values(part) for part in (data.values() if isinstance(data, Mapping) else data)))
    return set()


def from_run(run_dir: str, title: str, log: str, commit: str | None, setting: str | None) -> dict[str, Any]:
    """What a file has of a finished run folder, from the counts that its summary.json is made of."""
    from sirl.results.summary import summarise_run

    folder = Path(run_dir)
    summary = summarise_run(folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    attack, benign, wrapped = summary["attack"], summary["benign"], summary["wrapped"]
    kind = attack["kinds"][attack["covers"]]
    figures: dict[str, dict[str, Any]] = {}
    for phase in ("before", "after"):
        found = {
            "dsr": _rate(kind["rates"], "greedy", phase, "overall"),
            "dsr_sampled": _rate(kind["rates"], "sample", phase, "overall"),
            "worst_case_dsr": _rate(attack["worst_case"], "greedy", phase),
            "benign_refusal": _rate(benign, "overall", "greedy", phase),
            "plain_refusal": _rate(benign, "rates", "greedy", phase, "plain"),
            "sounds_harmful_refusal": _rate(benign, "rates", "greedy", phase, "sounds_harmful"),
            "adversarial_benign": _rate(wrapped, "rates", phase, "overall"),
            "dprime": _rate(wrapped, "dprime", "phases", phase, first="value"),
        }
        for key, value in found.items():
            if value is not None:
                figures.setdefault(key, {})[phase] = value
    by_attack = kind["rates"]["greedy"]
    return {
        "title": title,
        "model": manifest["config"]["model_name_or_path"],
        "status": "current",
        "log": log,
        "date": str(manifest["finished"] or manifest["created"])[:10],
        "commit": commit or str(manifest.get("sirl_commit") or manifest["git_commit"])[:7],
        "command": shlex.join(["sirl", *map(str, manifest["command"][1:])]),
        "setting": setting or f"Seed {manifest['seed']}, {attack['goals']} goals for each attack; 95% intervals.",
        "figures": {key: pair for key, pair in figures.items() if len(pair) == 2},
        "attacks": {
            name: [round(by_attack[phase]["by_attack"][name]["rate"], 4) for phase in ("before", "after")]
            for name in kind["attacks"]
        },
    }


def _rate(table: Any, *keys: str, first: str = "rate") -> list[float] | None:
    for key in keys:
        table = table.get(key) if isinstance(table, Mapping) else None
    found = [table.get(key) for key in (first, "low", "high")] if isinstance(table, Mapping) else [None]
    return None if None in found else [round(value, 4) for value in found]


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", nargs="?", help="a finished run folder")
    parser.add_argument("--file", help="name of the file in docs/results/")
    parser.add_argument("--title", help="what the column is called")
    parser.add_argument("--log", help="anchor of the entry in dev/LOG.md")
    parser.add_argument("--commit", help="the commit that ran (default: that of the manifest)")
    parser.add_argument("--setting", help="one sentence: seeds, sizes, decoding")
    args = parser.parse_args()
    if args.run:
        if not (args.file and args.title and args.log):
            parser.error("a run needs --file, --title and --log")
        made = from_run(args.run, args.title, args.log, args.commit, args.setting)
        (FOLDER / f"{args.file}.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    for page in PAGES:
        page.write_text(refreshed(page), encoding="utf-8")


if __name__ == "__main__":
    main()
