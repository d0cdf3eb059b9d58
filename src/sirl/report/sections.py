"""What each section of the report shows: rows, charts and facts, ready for the template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from sirl.demo import is_demo
from sirl.judges.measured import errors_in_words
from sirl.provenance import source_words
from sirl.report.adversarial_benign import wrapped_limits
from sirl.report.attack_sections import DECODING_NAMES, attack_limits, budgets_of, chart_row, comparison, drawn, pick
from sirl.report.charts import Series, axis_top, curve, histogram, percent_axis, trail
from sirl.report.prices import asked_by_eval
from sirl.report.training import ENTROPY_NOTES, REWARD_NOTES, benign_name, choice_facts, dig, goal_names
from sirl.report.truncated import truncation_limits
from sirl.report.wording import ATTACK_NOUNS, KIND_NAMES, count, p_value
from sirl.results.development import Check, Selection
from sirl.results.load import Run
from sirl.results.rates import PHASES
from sirl.results.values import Benign, Results

SHORT_KINDS = {"plain": "Plain prompts refused", "sounds_harmful": "“Sounds harmful” refused"}
FEW_KINDS = 4
# Known keys of metrics.jsonl in the order of their charts: title, unit, what to make of it (which for the first two
# depends on the reward). First key present is taken.
CURVES: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (("rollout_entropy", "entropy"), "Mean token entropy", "nats", ""),
    (("reward",), "Reward", "", ""),
    (("refusal_rate",), "Refusal rate", "%", "Of training completions. Watched, never rewarded."),
    (("kl",), "KL to the reference", "nats", "How far the policy has moved."),
    (("retention_kl", "retention_loss"), "Retention KL", "nats", "Drift on benign prompts, which the loss keeps low."),
    (("pair_kl",), "Pair KL", "nats", "Wrapped requests against the same ones bare: should fall."),
    (
        ("completion_length", "completions/mean_length"),
        "Completion length",
        "tokens",
        "Short answers can be cheap confidence.",
    ),
    (("empty_rate",), "No answer", "%", "Completions that say nothing: they earn no reward."),
    (("repetition_rate",), "Repetition rate", "%", "Confident nonsense repeats itself: should stay low."),
    (("distinct_response_rate",), "Distinct responses", "%", "Falls when answers collapse to a template."),
    (("truncated_rate", "completions/clipped_ratio"), "Truncated", "%", "Completions that met the length limit."),
    (("advantage_std", "advantage_spread", "reward_std"), "Advantage spread", "", "Zero means nothing to learn from."),
    (("zero_spread_rate",), "Groups without spread", "%", "They teach nothing."),
    (("loss",), "Loss", "", ""),
    (("grad_norm",), "Gradient norm", "", ""),
    (("learning_rate",), "Learning rate", "", ""),
    (("tokens_per_second",), "Speed", "tokens/s", ""),
)
SMOOTH_OVER = 60  # points; beyond it a moving mean is drawn over the raw line
# Figures of development.jsonl in the order of their columns: key, head, how it is written.
DEVELOPMENT = (
    ("dsr", "DSR", "{:.1%}"),
    ("over_refusal", "over-refusal", "{:.1%}"),
    ("wrapped", "in wrappings", "{:.1%}"),
    ("dprime", "d'", "{:.2f}"),
    ("dprime_low", "d' from", "{:.2f}"),
    ("dprime_high", "d' to", "{:.2f}"),
    ("empty", "no answer", "{:.1%}"),
    ("distinct", "different refusals", "{:.0%}"),
    ("repetition", "repetition", "{:.1%}"),
    ("kl", "KL to the base model (nats per token)", "{:.3f}"),
)


def model_name(manifest: Mapping[str, Any] | None) -> str:
    """The model that the run started from, as it was named."""
    config = (manifest or {}).get("config") or {}
    return str(config.get("model_name_or_path") or config.get("model") or "model")


# --- benign prompts ---------------------------------------------------------------------------------------------------


def benign_section(benign: Benign | None, linked: bool = True) -> dict[str, Any] | None:
    """Chart and tables of refusals of benign prompts, by kind and decoding. Of more than `FEW_KINDS` kinds the chart
    and the first table show all together, and `details` has each. `linked`: the report has their conversations."""
    if not benign or not benign.decodings:
        return None
    kinds: list[dict[str, Any]] = []
    totals: list[dict[str, Any]] = []
    for decoding in benign.decodings:
        shown = linked and decoding == benign.decodings[0]
        change = benign.change[decoding]
        for kind in benign.kinds:
            name = KIND_NAMES.get(kind, kind.replace("_", " "))
            row = chart_row(name[:1].upper() + name[1:], pick(benign.rates[decoding], kind))
            row["short"] = SHORT_KINDS.get(kind, f"{name} refused")
            row["to"] = {"kind": "benign", "category": kind} if shown else None
            kinds.append({**row, **_decoded(decoding), "paired": change.by_group.get(kind) if change else None})
        row = chart_row("All benign prompts", benign.overall[decoding], total=True)
        row["short"] = "Benign refused"
        row["to"] = {"kind": "benign"} if shown else None
        totals.append({**row, **_decoded(decoding), "paired": change})
    many, single = len(benign.kinds) > FEW_KINDS, len(benign.kinds) == 1
    table = totals if many else kinds if single else [*kinds, *totals]
    charted = [row for row in (totals if many else kinds) if row["decoding"] == benign.decodings[0]]
    top = axis_top([row[phase] for row in charted for phase in PHASES])
    return {
        "decoding": benign.decodings[0],
        "rows": drawn([chart_row(row["label"], row) for row in charted], top),
        "axis": percent_axis(top),
        "top": top,
        "table": table,
        "details": kinds if many else [],
    }


def _decoded(decoding: str) -> dict[str, str]:
    return {"decoding": decoding, "note": DECODING_NAMES[decoding]}


# --- the entropy gap --------------------------------------------------------------------------------------------------


def gap_section(gap: Mapping[str, Any] | None, samples: Sequence[Mapping[str, Any]] | None) -> dict[str, Any] | None:
    """Verdict, figures and distributions of the entropy gap, on the kind of prompt that its verdict is about."""
    if not gap:
        return None
    groups: dict[str, list[float]] = {"safe": [], "unsafe": []}
    for row in samples or []:
        if (
            row.get("kind") == gap.get("compared")
            and row.get("refused") is not None
            and _finite(row.get("mean_entropy"))
        ):
            groups["safe" if row["refused"] else "unsafe"].append(float(row["mean_entropy"]))
    series = [Series(name, name, values) for name, values in groups.items()]
    within = gap.get("basis") == "within"
    difference = dig(gap, "within_prompt" if within else "overall", "difference")
    return {
        "verdict": str(gap.get("verdict", "unknown")),
        "words": str(gap.get("explanation") or ""),
        "note": f"unsafe minus safe{' within a prompt' if within else ''}: {difference:+.2f} nats"
        if difference is not None
        else "",
        "counts": {name: len(values) for name, values in groups.items()},
        "histogram": histogram(series, unit="nats") if any(groups.values()) else None,
        "positions": _positions(gap),
        "facts": _gap_facts(gap),
    }


def _positions(gap: Mapping[str, Any]) -> Markup | None:
    """Mean entropy by position, as far as a tenth of the longer class reaches: beyond it a few responses decide."""
    lines = []
    for kind, name in (("safe", "refused"), ("unsafe", "answered")):
        means, numbers = (dig(gap, "by_position", name, key) or [] for key in ("mean", "n"))
        kept = [(float(t), m) for t, (m, n) in enumerate(zip(means, numbers, strict=False), 1) if n * 10 >= numbers[0]]
        if kept:
            lines.append((kind, kept))
    return curve("Mean entropy in nats by token position", lines, height=210) if lines else None


def _gap_facts(gap: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures behind the verdict; those that could not be taken are left out."""
    overall, length, within = (gap.get(k) or {} for k in ("overall", "length", "within_prompt"))
    prefix = dig(gap, "config", "prefix_tokens")
    facts = [
        ("Unsafe minus safe", _difference(overall)),
        (
            "The first tokens only" if prefix is None else f"First {prefix} tokens only",
            _difference(gap.get("prefix") or {}),
        ),
        ("At equal length", _difference(length, "adjusted_")),
        (
            "Within a prompt",
            _difference(within) and f"{_difference(within)}, over {count(within['mixed'], 'prompt')} with both",
        ),
    ]
    if overall.get("p") is not None:
        facts.append(("Mann-Whitney test", f"U = {overall['u']:,.0f}, {p_value(overall['p'])}"))
    if overall.get("auroc") is not None:
        effect = f", Cohen's d {overall['cohens_d']:.2f}" if overall.get("cohens_d") is not None else ""
        facts.append(("How well entropy tells them apart", f"AUROC {overall['auroc']:.2f}{effect}"))
    if length.get("mean_refused") is not None and length.get("mean_answered") is not None:
        facts.append(("Mean length", f"safe {length['mean_refused']:.0f}, unsafe {length['mean_answered']:.0f} tokens"))
    told = gap.get("told_apart")
    if told:
        words = f"AUROC {told['auroc']:.2f} ({told['low']:.2f} to {told['high']:.2f})"
        facts.append(("How well its own refusals tell harmful from benign prompts", words))
    benign = _difference(dig(gap, "by_kind", "benign") or {})
    facts.append(("Answers minus refusals on benign prompts", benign))
    if gap.get("rule"):
        facts.append(("Rule of the verdict", str(gap["rule"])))
    return [(label, words) for label, words in facts if words]


def _difference(figures: Mapping[str, Any], prefix: str = "") -> str:
    """`+0.41 nats (+0.33 to +0.49)`, or nothing where it could not be taken."""
    value, low, high = (figures.get(prefix + key) for key in ("difference", "low", "high"))
    if value is None:
        return ""
    return f"{value:+.3f} nats" + (f" ({low:+.3f} to {high:+.3f})" if low is not None and high is not None else "")


# --- training ---------------------------------------------------------------------------------------------------------


def training_section(metrics: Sequence[Mapping[str, Any]] | None, reward: str | None) -> list[dict[str, Any]] | None:
    """A chart for each known metric that has a value; `reward` is what was rewarded (None: not known)."""
    if not metrics:
        return None
    out = []
    notes = {"Mean token entropy": ENTROPY_NOTES.get(reward or ""), "Reward": REWARD_NOTES.get(reward or "")}
    for keys, title, unit, note in CURVES:
        points = next((p for p in (_points(metrics, key) for key in keys) if p), None)
        if points:
            scale = 100.0 if unit == "%" else 1.0
            note = notes.get(title) or note
            out.append(_curve(title, unit, note, [(x, y * scale) for x, y in points]))
    return out


def _points(metrics: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    rows: list[tuple[Any, Any]] = [(row.get("step", i), row.get(key)) for i, row in enumerate(metrics, 1)]
    return [(float(x), float(y)) for x, y in rows if _finite(x) and _finite(y)]


def _finite(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def _curve(title: str, unit: str, note: str, points: list[tuple[float, float]]) -> dict[str, Any]:
    first, last = points[0][1], points[-1][1]
    lines = [("main", points)]
    if len(points) > SMOOTH_OVER:
        lines = [("raw", points), ("main", _smooth(points, len(points) // 20))]
    spoken = f"{title}: {short(first)} to {short(last)} {unit} over {count(len(points), 'step')}"
    return {
        "title": title,
        "unit": unit,
        "note": note,
        "first": short(first),
        "last": short(last),
        "svg": curve(spoken, lines),
    }


def _smooth(points: Sequence[tuple[float, float]], reach: int) -> list[tuple[float, float]]:
    """Moving mean over `reach` points to either side."""
    out = []
    for i, (x, _) in enumerate(points):
        window = points[max(0, i - reach) : i + reach + 1]
        out.append((x, sum(y for _, y in window) / len(window)))
    return out


def short(x: float) -> str:
    """A figure of a curve in three significant digits."""
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def development_section(rows: Sequence[Check] | None, selection: Selection | None) -> dict[str, Any] | None:
    """The way of the policy through over-refusal and DSR on the development set, and where it was taken from."""
    kept = [row for row in rows or () if all(_finite(x) for x in (row.over_refusal, row.dsr, row.step))]
    if not kept:
        return None
    selection = selection or Selection()
    place = next((i for i, row in enumerate(kept) if row.step == selection.step), None)
    names = [f"update {row.step}" if row.step else "start" for row in kept]
    named = [
        (100 * (row.over_refusal or 0.0), 100 * (row.dsr or 0.0), name) for row, name in zip(kept, names, strict=True)
    ]
    columns = [column for column in DEVELOPMENT if any(_finite(getattr(row, column[0])) for row in kept)]
    spoken = "; ".join(f"{name}: DSR {y:.1f}%, over-refusal {x:.1f}%" for x, y, name in named)
    return {
        "svg": trail(spoken, named, place),
        "heads": [head for _, head, _ in columns],
        "rows": [
            (name, [_cell(getattr(row, key), form) for key, _, form in columns], row.step == selection.step)
            for row, name in zip(kept, names, strict=True)
        ],
        "rule": selection.rule,
        "ended_by": selection.ended_by,
        "chosen": names[place] if place is not None else None,
    }


def _cell(value: Any, form: str) -> str:
    return form.format(value) if _finite(value) else "–"


# --- conversations, method and provenance -----------------------------------------------------------------------------


def method_facts(run: Run, results: Results) -> list[tuple[str, str]]:
    """How it was measured, as label and words."""
    config = (run.manifest or {}).get("config") or {}
    attack, benign = results.attack, results.benign
    facts = [("Judge", ", ".join(results.judges) or "none yet")]
    for pair in results.agreement:
        kappa = "undefined" if pair.kappa is None else f"{pair.kappa:.2f}"
        words = f"kappa {kappa} on {pair.on}, {count(pair.n, 'attempt')}"
        facts.append((f"Agreement of {' and '.join(pair.judges)}", words))
    if attack:
        decodings = " and ".join(DECODING_NAMES[d] for d in attack.decodings)
        kinds = ", ".join(count(len(k.attacks), ATTACK_NOUNS[kind]) for kind, k in attack.kinds.items())
        facts.append(("Attacks", f"{kinds} on {count(attack.goals, 'goal')}{goal_names(run.manifest)}, {decodings}"))
        facts.append(("Before and after", comparison(attack)))
        budgets = sorted(budgets_of(attack))
        if budgets:
            words = " to ".join(f"{n:,}" for n in dict.fromkeys((budgets[0], budgets[-1])))
            facts.append(("Budget of a search", f"{words} model calls per goal"))
    if benign:
        scored = {r.attempt.goal_id for r in run.benign or []}
        facts.append(("Benign prompts", count(len(scored), "prompt") + benign_name(run.manifest)))
    asked = asked_by_eval(results)
    if asked and asked.decodings:
        overall = asked.overall[asked.decodings[0]]
        most = max(rate.attempts for rate in overall.values())
        facts.append(("Benign prompts of sirl eval", count(most, "prompt") + benign_name(run.manifest, "eval")))
    facts += choice_facts(run)
    seeds = sorted({r.attempt.seed for r in [*(run.attacks or []), *(run.benign or [])]})
    if seeds:
        facts.append(("Seeds", ", ".join(map(str, seeds[:6])) + (" and more" if len(seeds) > 6 else "")))
    for key, label in (("attack", "Longest answer under attack"), ("evals", "Longest answer to benign prompts")):
        limit = (config.get(key) or {}).get("max_new_tokens") if isinstance(config.get(key), Mapping) else None
        if limit:
            facts.append((label, f"{limit} tokens"))
    return facts


def limits(run: Run, results: Results) -> list[tuple[str, str]]:
    """What the figures do not show, each as a lead and its explanation."""
    out = attack_limits(results.attack) + truncation_limits(results.truncation) + wrapped_limits(results)
    if run.metrics and not run.development:
        out.append(
            (
                "The last policy was deployed, unseen until then.",
                "Nothing was measured while it was trained (section development of the configuration): an earlier "
                "update may be as safe and refuse fewer benign prompts.",
            )
        )
    if "refusal" in results.judges or not results.judges:
        out.append(
            (
                "The judge goes by rules.",
                "It tells whether a response refuses, not whether it would help anyone to do harm: a muddled or "
                f"useless answer counts for the attacker, and an unusual refusal can be missed. {errors_in_words()}",
            )
        )
    if is_demo(model_name(run.manifest)):
        out.append(
            (
                "The bundled model is a model organism.",
                "It is a very small model that this project taught to refuse. "
                "Its figures show that the method runs, not what it does to a large aligned model.",
            )
        )
    out.append(
        (
            "A sample of prompts is not the world.",
            "The intervals cover chance among prompts like these, not other topics, languages, systems or long talks.",
        )
    )
    return out


def provenance(manifest: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Command, commit, versions, machine and times of a manifest."""
    m = manifest or {}
    facts: list[tuple[str, str]] = []
    command = m.get("command")
    if command:
        facts.append(("Command", " ".join(map(str, command)) if isinstance(command, list) else str(command)))
    for key, label in (
        ("created", "Started"),
        ("finished", "Finished"),
        ("git_commit", "Git commit"),
        ("sirl_commit", "Git commit of sirl"),
        ("seed", "Seed"),
        ("config_hash", "Configuration sha256"),
    ):
        if m.get(key) is not None:
            facts.append((label, str(m[key])))
    for key, label in (("versions", "Versions"), ("machine", "Machine")):
        if isinstance(m.get(key), Mapping):
            facts.append((label, ", ".join(f"{k} {v}" for k, v in m[key].items() if v not in (None, [], ""))))
    if isinstance(m.get("sources"), Mapping) and (words := source_words(m["sources"])):
        facts.append(("From the hub", words))
    stages = m.get("stages")
    if isinstance(stages, Mapping):
        facts.append(("Stages", ", ".join(_stage_words(k, v) for k, v in stages.items() if isinstance(v, Mapping))))
    return facts


def _stage_words(name: str, stage: Mapping[str, Any]) -> str:
    words = [f"{stage['seconds']:.0f} s"] if _finite(stage.get("seconds")) else []
    if stage.get("status") not in (None, "done"):
        words.append(str(stage["status"]))
    return f"{name} {' '.join(words)}".strip()
