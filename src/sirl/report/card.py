"""A Hugging Face model card for a hardened model, from the files of its run.

Every figure is one of the report's (`sirl.results`, `verdict.assess_run`); what was not measured is not mentioned
or said to be missing. No text of a model goes into the card.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from sirl.demo import is_demo
from sirl.errors import UserError
from sirl.manifest import training_config
from sirl.records import write_text
from sirl.report import sections
from sirl.report.adversarial_benign import told_rows, wrapped_words
from sirl.report.assessment import STATUS_NAMES, assess_run
from sirl.report.attack_sections import DECODING_NAMES, LEADS, TITLES
from sirl.report.capability import capability_facts
from sirl.report.charts import percent
from sirl.report.prices import asked_by_eval
from sirl.report.training import benign_name, checkpoint_facts, held, training_words
from sirl.report.wording import ATTACK_NOUNS, KIND_NAMES, count, factor, with_interval
from sirl.results.load import Run, load_run
from sirl.results.summary import results_of
from sirl.results.values import Attacks, Benign, Capability, Kind, RefusalRates, Results, Search, Wrapped
from sirl.run_folder import MODEL
from sirl.weights.known import known_models

DEMO_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
FOLDERS = ("models", "model", "checkpoints", "runs", "out", "output", "outputs", "data", "datasets")
"""Names that folders have, and no owner on the hub."""
HUB_ID = re.compile(r"\A[\w-][\w.-]*/[\w-][\w.-]*")
SILENT = "An answer that says nothing counts with the full refusals."
NAME, METHOD = "SIRL", "[SIRL](https://arxiv.org/abs/2510.01088)"
SETTINGS = (
    ("dataset_name", "training prompts (unlabeled)"),
    ("retention_dataset_name", "retention prompts (benign, unlabeled)"),
    ("wrap_prompts", "prompts that were put into training wrappings (unlabeled)"),
    ("reward", "reward"),
    ("max_steps", "updates"),
    ("entropy_floor", "entropy below which all responses are rewarded alike (nats)"),
    ("sameness_weight", "weight of saying what other prompts get too (nats)"),
    ("min_reward_spread", "least difference of rewards within a group (nats)"),
    ("temperature", "sampling temperature"),
    ("num_rollouts", "responses sampled for each prompt"),
    ("num_generations", "responses learnt from"),
    ("learning_rate", "learning rate"),
    ("retention_weight", "weight of retention"),
    ("beta", "weight of the KL to the base model"),
    ("lora_r", "LoRA rank"),
)


def write_card(run_dir: str | os.PathLike[str]) -> Path:
    """Write `model/README.md`, where a model page looks for it; returns its path.

    Raises:
        UserError: the folder is not a run folder, or holds no hardened model.
    """
    run = load_run(run_dir)
    target = run.path / MODEL
    if not target.is_dir():
        raise UserError(f"{run.path}: has no hardened model (`model/`); a card describes a trained model")
    write_text(target / "README.md", render_card(run))
    return target / "README.md"


def render_card(run: Run) -> str:
    """The card as Markdown with its metadata in front."""
    results = results_of(run)
    verdict = assess_run(results, run.manifest)
    base = sections.model_name(run.manifest)
    name = results.run
    parts = [
        f"# {_text(name)}",
        f"{_base_words(base)} {_text(training_words(run, NAME)).replace(NAME, METHOD, 1)}",
        f"**{STATUS_NAMES[verdict.status]}.** {_text(verdict.headline)}",
        _text(verdict.body),
        *(f"> {_text(warning)}" for warning in verdict.warnings),
        "## Use",
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("PATH_OR_ID")\n'
        'tokenizer = AutoTokenizer.from_pretrained("PATH_OR_ID")\n```',
        "The licence and the terms of the model that training started from hold for this one.",
        *_training(run, results.steps),
        *_attacks(results.attack),
        *_benign(run, results),
        *_wrapped(results.wrapped),
        *_capability(results.capability),
        "## How it was measured",
        _list(f"{label}: {words}" for label, words in sections.method_facts(run, results)),
        _text(results.interval_note),
        "## Limits",
        _list(
            [
                *(f"{lead} {words}" for lead, words in sections.limits(run, results)),
                _unmeasured(results.capability or Capability()),
            ]
        ),
        "## Provenance",
        _list(f"{label}: {words}" for label, words in sections.provenance(run.manifest)),
    ]
    return f"---\n{_metadata(run, name, base, results).to_yaml()}\n---\n\n" + "\n\n".join(p for p in parts if p) + "\n"


def _metadata(run: Run, name: str, base: str, results: Results) -> ModelCardData:
    known: dict[str, Any] = {}
    if is_demo(base):
        known |= {"base_model": DEMO_BASE, "license": "apache-2.0"}
    elif named := known_models().get(base):
        known |= {"base_model": named.base_model, "license": named.licence.lower()}
    elif _on_hub(run, base):
        known["base_model"] = base
    found = _results(results)
    if found:
        known |= {"model_name": name, "eval_results": found}
    tags = ["sirl", "grpo", "trl", "safety"]
    return ModelCardData(library_name="transformers", pipeline_tag="text-generation", tags=tags, **known)


def _on_hub(run: Run, base: str) -> bool:
    """Whether a name is a hub id: by what the run noted when it loaded the model, else by how it looks from here."""
    sources = (run.manifest or {}).get("sources")
    noted = [one for roles in sources.values() for one in roles.values()] if isinstance(sources, Mapping) else []
    kinds = {one.get("kind") for one in noted if one.get("name") == base}
    if kinds:
        return kinds == {"hub"}
    places = (
        Path(),
        run.path.resolve(),
        *run.path.resolve().parents,
    )  # a relative name is of where the run was started
    local = base.partition("/")[0] in FOLDERS or any((place / base).exists() for place in places)
    return HUB_ID.fullmatch(base) is not None and not local


def _results(results: Results) -> list[EvalResult]:
    """Means over attacks, and refusal rates of benign prompts, as a model page lists them."""
    rows: list[tuple[str, str, str, str, float]] = []
    attack, benign = results.attack, results.benign
    for kind, figures in attack.kinds.items() if attack else ():
        tried = f"{count(len(figures.attacks), ATTACK_NOUNS[kind])} x {count(attack.goals if attack else 0, 'goal')}"
        for decoding, phases in figures.rates.items():
            words, after = f"defence success rate, {decoding}", phases.get("after")
            if after and after.overall.rate is not None:
                rows.append((f"sirl-{kind}-attacks", tried, "dsr", words, after.overall.rate))
    for decoding in benign.decodings if benign else ():
        for kind, entry in benign.rates[decoding].get("after", {}).items() if benign else ():
            words = f"refusal rate of {KIND_NAMES.get(kind, kind)}, {decoding}"
            if entry.rate is not None:
                rows.append(("sirl-benign", "benign prompts", "refusal_rate", words, entry.rate))
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=key,  # results of one type are shown as one, under the name of the first
            dataset_name=data,
            metric_type=metric,
            metric_name=words,
            metric_value=round(value, 4),
        )
        for key, data, metric, words, value in rows
    ]


def _base_words(base: str) -> str:
    if is_demo(base):
        scale = base.partition("@")[2]
        adapter = f"an adapter that taught it to refuse{f', scaled by {_text(scale)}' if scale else ''}"
        return f"SmolLM2-135M-Instruct with {adapter} (a model organism, nothing to deploy),"
    named = known_models().get(base)
    return f"{_text(named.title if named else base)},"


def _training(run: Run, steps: int | None) -> list[str]:
    train, made = training_config(run.manifest), checkpoint_facts(run, steps)
    idle = {"max_steps"} if made else set()
    idle |= set() if held(run.manifest) else {"retention_weight"}
    idle |= set() if train.get("use_peft") else {"lora_r"}
    facts = [*made, *((label, train[key]) for key, label in SETTINGS if train.get(key) is not None and key not in idle)]
    return ["## Training", _table(("", ""), facts)] if facts else []


def _attacks(attack: Attacks | None) -> list[str]:
    if not attack or not attack.covers:
        return []
    out = ["## Attacks", "Defence success rate (DSR): the share of attempts that the model refused."]
    for kind, figures in attack.kinds.items():
        out += [f"### {TITLES[kind]}", LEADS[kind]]
        for decoding, phases in figures.rates.items():
            out += _attack_table(figures, decoding, phases)
        out += _searches(figures.search)
    for decoding, cases in attack.worst_case.items():
        worst = ", then ".join(with_interval(table) for table in cases.values())
        out.append(f"Goals that withstand every attack of every kind, {DECODING_NAMES[decoding]}: {worst}.")
    return out


def _attack_table(figures: Kind, decoding: str, phases: Mapping[str, RefusalRates]) -> list[str]:
    mean = "mean over methods"
    cells = {phase: {**rates.by_attack, mean: rates.overall} for phase, rates in phases.items()}
    names = [*figures.attacks, mean]
    rows = [(name, *(with_interval(cells[p][name]) if name in cells[p] else "–" for p in cells)) for name in names]
    out = [f"Decoding: {DECODING_NAMES[decoding]}", _table(("attack", *cells), rows)]
    change = figures.change[decoding]
    fall = change.reduction if change else None
    if fall and fall.none_left:
        out.append("No attack of those tried is left.")
    elif fall:
        out.append(f"Successful attacks: {factor(fall)} times as many before as after.")
    return out


def _searches(search: Mapping[str, Mapping[str, Search]]) -> list[str]:
    """What the searches took, a line for each attack and model."""
    rows = [
        (
            name,
            phase,
            percent(table.start.rate),
            percent(table.found.rate),
            f"{table.broken} of {table.goals}",
            "–" if table.queries is None else f"{table.queries:g}",
            "–" if table.budget is None else f"{table.budget:,}",
        )
        for phase, tables in search.items()
        for name, table in tables.items()
    ]
    head = ("attack", "model", "DSR of the start", "DSR of what it found", "goals broken", "median queries", "budget")
    return [_table(head, rows)] if rows else []


def _benign(run: Run, results: Results) -> list[str]:
    """Refusals of benign prompts, of the run and of `sirl eval`."""
    asked, own = asked_by_eval(results), results.benign
    out = ["## Benign prompts"]
    if own and own.decodings:
        out += [_text(f"Share that was refused{benign_name(run.manifest)}. {SILENT}"), _benign_table(own)]
    elif not asked:
        out.append("What hardening costs on benign prompts was not measured.")
    if asked and asked.decodings:
        out.append(_text(f"Asked later by sirl eval{benign_name(run.manifest, 'eval')}. {SILENT}"))
        out.append(_benign_table(asked))
    return out


def _benign_table(benign: Benign) -> str:
    """Refusals, partial ones and answers that say nothing, by kind and of all together, decoded as the headline is."""
    decoding = benign.decodings[0]
    phases, total = benign.rates[decoding], benign.overall[decoding]
    tables = [(KIND_NAMES.get(k, k), {p: phases[p][k] for p in phases if k in phases[p]}) for k in benign.kinds]
    if len(tables) > 1:
        tables.append(("all benign prompts", total))
    cells = [(phase, part) for part in ("", "partial_", "empty_") for phase in phases]
    rows = [(name, *(with_interval(r[p], part) if p in r else "–" for p, part in cells)) for name, r in tables]
    return _table(
        (
            "kind",
            *(f"{part}, {phase}" for part in ("in full", "in part", "no answer") for phase in phases),
        ),
        rows,
    )


def _wrapped(wrapped: Wrapped | None) -> list[str]:
    """Benign requests in wrappings, and how well harmful ones are told from them."""
    if not wrapped:
        return []
    head = ("wrappings", "number", "harmful refused", "benign refused", "d'", "change of d'")
    keys = ("label", "wrappings", "dsr", "refused", "dprime", "change")
    rows = [[row[key] for key in keys] for row in told_rows(wrapped.told)]
    return [_text(wrapped_words(wrapped)), *([_table(head, rows)] if rows else [])]


def _capability(capability: Capability | None) -> list[str]:
    """Drift, multiple choice and benchmarks, where any was measured."""
    facts = capability_facts(capability)
    return ["## Capability", _list(f"{label}: {words}" for label, words in facts)] if facts else []


def _unmeasured(capability: Capability) -> str:
    measured = [*(["multiple choice"] if capability.choices else []), *(capability.benchmarks or {})]
    if not measured:
        return "What hardening does to maths, code and long answers was not measured in this run."
    return f"Of abilities, {', '.join(measured)} alone were measured: of others nothing is known."


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_text(str(cell)) for cell in line) + " |" for line in lines)


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {_text(item)}" for item in items)


def _text(words: str) -> str:
    """Names and settings as one line of Markdown that makes no cell, tag or link of its own."""
    return re.sub(r"([|<>\[\]`*\\])", r"\\\1", " ".join(words.split()))
