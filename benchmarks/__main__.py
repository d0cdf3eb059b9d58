"""`python -m benchmarks`: run the comparisons, print a table of ratios, write `bench.json`."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import entropy, growth, rollouts, step, update
from benchmarks.workers import Result, compare
from benchmarks.workload import QUICK, STEP, Size, model_folder
from sirl.records import write_json

MAX_STEPS = 2
"""Rounds of whole steps: one of plain TRL's takes a minute and more."""

PARTS = ("step", "rollouts", "update", "entropy", "growth")
LIBRARIES = ("torch", "transformers", "trl", "peft", "ctranslate2")


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, fewer contenders, smaller, no growth")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run")
    parser.add_argument("--rounds", type=int, default=None, help="rounds that count (default 3; 1 with --quick)")
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="where the figures go")
    parser.add_argument("--every-setting", action="store_true", help="ours and plain TRL in all settings tried")
    args = parser.parse_args(argv)
    rounds = args.rounds or (1 if args.quick else 3)
    parts = [p for p in args.only if not (args.quick and p == "growth")]
    started = time.time()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="sirl-bench-") as work:
        folder = model_folder(Path(work))
        for part in parts:
            print(f"\n{part}", flush=True)
            figures |= globals()[f"run_{part}"](folder, rounds, args)
    figures["machine"] = machine() | {"seconds": round(time.time() - started, 1), "size": asdict(_size(args))}
    write_json(args.output, figures)
    print("\n" + table(figures))
    print(f"\n{args.output}: written, {figures['machine']['seconds']:.0f} s")
    return 0


def run_step(folder: Path, rounds: int, args: Any) -> dict[str, Any]:
    """Whole steps."""
    rounds = min(rounds, MAX_STEPS)
    ours, plain = step.contenders(folder, _size(args), args.every_setting)
    results: dict[str, Result] = {}
    ratios = []
    for other in plain:  # two at a time: plain TRL needs half of a machine's memory
        found = compare([ours[0], other], rounds, say=say)
        results |= found
        if all(result.rounds for result in found.values()):
            ratios.append(ratio(found[other.name], found[ours[0].name], against=other.name))
    for other in ours[1:]:
        results |= compare([other], rounds, say=say)
    out: dict[str, Any] = {"step": described(results)}
    if ratios:
        out["step_ratio"] = min(ratios, key=lambda r: r["value"])  # plain TRL at its fastest
    return out


def run_rollouts(folder: Path, rounds: int, args: Any) -> dict[str, Any]:
    """Tokens a second, as the time of one token."""
    results = compare(rollouts.contenders(folder, _size(args), args.quick), rounds, say=say)
    for result in results.values():
        for figures in result.rounds:
            figures["seconds_per_token"] = figures["seconds"] / figures["tokens"]
            figures["tokens_per_second"] = figures["tokens"] / figures["seconds"]
    out: dict[str, Any] = {"rollouts": described(results, "tokens_per_second")}
    ours, unit = results["sirl, bf16"], "seconds_per_token"
    if not ours.rounds:
        return out
    for name, other in (("rollout_ratio_bf16", "generate, bf16"), ("rollout_ratio_fp32", "generate, fp32")):
        if other in results and results[other].rounds:
            out[name] = ratio(results[other], ours, unit, against=other)
    engines = {n: r for n, r in results.items() if n.startswith("ctranslate2") and r.rounds}
    if engines:
        fastest = min(engines, key=lambda name: engines[name].median(unit))
        out["rollout_ratio_engine"] = ratio(engines[fastest], ours, unit, against=fastest)
    return out


def run_update(folder: Path, rounds: int, args: Any) -> dict[str, Any]:
    """Share of the machine's matrix-product peak."""
    results = compare(update.contenders(folder, _size(args)), rounds, warmup=2, say=say)
    result = results["update"]
    out: dict[str, Any] = {"update": described(results)}
    if result.rounds:
        out["update_peak_fraction"] = {
            "value": round(result.median("fraction"), 3),
            "spread": [round(v, 3) for v in result.spread("fraction")],
            "n": len(result.rounds),
            "peak_tflops": round(result.median("peak") / 1e12, 2),
            "tflop": round(result.median("flops") / 1e12, 2),
        }
    return out


def run_entropy(folder: Path, rounds: int, args: Any) -> dict[str, Any]:
    """Extra time in rollouts, extra memory in training."""
    both = entropy.contenders(folder, _size(args))
    drawn = compare(both["rollouts"], max(rounds, 2), say=say)
    out: dict[str, Any] = {"entropy": described(drawn)}
    if drawn["with entropy"].rounds and drawn["without"].rounds:
        extra = ratio(drawn["with entropy"], drawn["without"], against="rollouts without")
        out["entropy_overhead"] = extra | {
            "value": round(extra["value"] - 1, 4),
            "spread": [round(v - 1, 4) for v in extra["spread"]],
        }
    if args.quick:
        return out
    trained = compare(both["training"], rounds, say=say)
    out["entropy"] |= described(trained, "extra_bytes")
    result = trained["sirl, 8 x 512 x 128k"]
    if result.rounds:
        out["entropy_training_extra_mb"] = {
            "value": round(result.median("extra_bytes") / 2**20),
            "spread": [round(b / 2**20) for b in result.spread("extra_bytes")],
            "n": len(result.rounds),
        }
    return out


def run_growth(folder: Path, rounds: int, _: Any) -> dict[str, Any]:
    """Time per prompt, and updates of several sizes."""
    prompts: dict[str, Result] = {}
    for contender in growth.prompt_contenders(folder):  # one after another: three models with caches need much memory
        prompts |= compare([contender], 1 if "2000" in contender.name else rounds, warmup=0, say=say)
    updates: dict[str, Result] = {}
    for contender in growth.update_contenders(folder):
        updates |= compare([contender], rounds, say=say)
    for result in prompts.values():
        for figures in result.rounds:
            figures["seconds_per_prompt"] = figures["seconds"] / figures["prompts"]
    out: dict[str, Any] = {"growth": described(prompts, "seconds_per_prompt") | described(updates)}
    per_prompt = [r.median("seconds_per_prompt") for r in prompts.values() if r.rounds]
    if len(per_prompt) == len(prompts):
        out["growth_per_prompt"] = {
            "value": round(max(per_prompt) / min(per_prompt), 3),
            "n": min(len(r.rounds) for r in prompts.values()),
        }
    return out


def _size(args: Any) -> Size:
    return QUICK if args.quick else STEP


def ratio(slower: Result, ours: Result, figure: str = "seconds", *, against: str) -> dict[str, Any]:
    """How many times as long the other takes: of the medians, with the ratios of the rounds as spread."""
    turns = [a[figure] / b[figure] for a, b in zip(slower.rounds, ours.rounds, strict=False)]
    return {
        "value": round(slower.median(figure) / ours.median(figure), 3),
        "spread": [round(min(turns), 3), round(max(turns), 3)],
        "n": len(turns),
        "against": against,
    }


def described(results: Mapping[str, Result], *figures: str) -> dict[str, Any]:
    """Each contender's medians, peak memory, or why there are none."""
    out: dict[str, Any] = {}
    for name, result in results.items():
        if not result.rounds:
            out[name] = {"error": result.error or "no round was finished"}
            continue
        out[name] = {
            figure: {"median": result.median(figure), "spread": result.spread(figure), "n": len(result.rounds)}
            for figure in ("seconds", *figures)
        } | {"peak_gb": round(result.peak_bytes / 1e9, 2)}
    return out


def table(figures: Mapping[str, Any]) -> str:
    """The ratios, and each contender's time and memory."""
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict) and "value" in value:
            spread = f"  ({value['spread'][0]:.3g} to {value['spread'][1]:.3g})" if "spread" in value else ""
            against = f"  against {value['against']}" if "against" in value else ""
            lines.append(f"{name:28}{value['value']:8.3g}{spread}  n = {value['n']}{against}")
    for part in PARTS:
        for name, entry in figures.get(part, {}).items():
            if "error" in entry:
                lines.append(f"{part:10} {name:32}{entry['error']}")
                continue
            rest = "".join(
                f"  {figure} {entry[figure]['median']:,.3g}" for figure in entry if figure not in ("seconds", "peak_gb")
            )
            lines.append(f"{part:10} {name:32}{entry['seconds']['median']:8.2f} s {entry['peak_gb']:6.1f} GB{rest}")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    import torch

    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    cpu = platform.processor() or platform.machine()
    return {"cpu": cpu, "threads": torch.get_num_threads(), "python": platform.python_version(), "versions": versions}


def say(line: str) -> None:
    """Progress goes to stderr: the table is the output."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
