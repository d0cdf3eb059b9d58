"""What the report and the card say of abilities: drift and multiple choice of a run, benchmarks of `sirl eval`."""

from __future__ import annotations

from collections.abc import Sequence

from sirl.report.charts import percent
from sirl.report.sections import short
from sirl.report.wording import count, p_value, with_interval
from sirl.results.values import Benchmark, BenchmarkMetric, Capability, Drift


def capability_facts(capability: Capability | None) -> list[tuple[str, str]]:
    """What hardening did besides, as label and words."""
    if capability is None:
        return []
    choices = capability.choices
    facts = _drift_facts(capability.drift, "its own answers to benign prompts")
    facts += _drift_facts(capability.chat_drift, "its own answers in the benchmark chat")
    if choices:
        facts.append(
            (
                f"Multiple choice, {count(choices.questions, 'question')}",
                f"{with_interval(choices.before)} right before, {with_interval(choices.after)} after; "
                f"{choices.lost} lost, {choices.gained} gained ({p_value(choices.p)})",
            )
        )
    return facts + [_benchmark_fact(name, found) for name, found in (capability.benchmarks or {}).items()]


def _drift_facts(drift: Drift | None, texts: str) -> list[tuple[str, str]]:
    if not drift:
        return []
    kl, rise = drift.kl, drift.perplexity_rise
    return [
        (
            f"Divergence from the base model on {texts}",
            f"{kl.value:.3f} nats per token ({kl.low:.3f} to {kl.high:.3f}), {drift.tokens:,} tokens of "
            f"{count(drift.answers, 'answer')}",
        ),
        (
            f"Perplexity of {texts}",
            f"{drift.perplexity_before:.3f} before, {drift.perplexity_after:.3f} after: "
            f"{100 * rise.value:+.1f}% ({100 * rise.low:+.1f} to {100 * rise.high:+.1f})",
        ),
    ]


def _benchmark_fact(name: str, found: Benchmark) -> tuple[str, str]:
    """The first figure of a benchmark (`sirl.evals.benchmarks.compare`), and what it says."""
    figure, table = next(iter(found.figures.items()))
    label = f"Benchmark {name}, {figure.replace('_', ' ')}, {count(table.n, 'row')}"
    before, after, gap = table.before, table.after, table.difference
    if not before or not after or not gap:
        return label, found.statement
    if is_share(table):
        words = (
            f"{percent(before.value)} before, {percent(after.value)} after: {100 * gap.value:+.1f} points "
            f"({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
        )
    else:
        words = (
            f"{short(before.value)} before, {short(after.value)} after: {gap.value:+.3g} "
            f"({gap.low:+.3g} to {gap.high:+.3g})"
        )
    return label, f"{words}; {found.statement}{_isolation(found.isolation)}"


def _isolation(levels: Sequence[str] | None) -> str:
    """What the programs of a model were kept from while they ran."""
    if not levels:
        return ""
    ways = ["ran with the user's files and network" if one == "nothing" else f"were kept from {one}" for one in levels]
    return f"; programs of the models {' or '.join(ways)}"


def is_share(table: BenchmarkMetric) -> bool:
    """Whether a benchmark's figure is a share, to be shown in percent, by its values and their intervals: scores of
    other tasks may go from 0 to 100, or be counts."""
    ends = [end for found in (table.before, table.after) if found for end in (found.value, found.low, found.high)]
    return all(-1e-9 <= end <= 1 + 1e-9 for end in ends)
