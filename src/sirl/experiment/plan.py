"""What a run is going to do: everything that its configuration names, found and checked before any work."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sirl import stages
from sirl.attacks import resolve_attacks
from sirl.attacks.attacker import check_attacker
from sirl.attacks.base import Attack, AttackOptions
from sirl.attacks.templates import load_templates
from sirl.chat.encoding import fitting_prompts
from sirl.errors import UserError
from sirl.evals.adversarial_benign import ATTACKED, draw_evenly, prompts_each, resolve_wrappings, wrappings_of
from sirl.evals.choices import Question, load_questions
from sirl.evals.development import DevelopmentSet
from sirl.evals.overrefusal import load_benign
from sirl.experiment.config import RunConfig
from sirl.gap import PromptClass
from sirl.generation.local import LocalEngine
from sirl.judges import Judge, load_judges, refusal_judge
from sirl.prompts import check_disjoint, load_prompts
from sirl.provenance import check_has_versions
from sirl.records import Prompt
from sirl.run_folder import BASE
from sirl.training.arguments import OF_ALL_STAGES, Training, parse_training
from sirl.training.checkpoint_selection import NOT_SHARDED
from sirl.training.sharding import sharded

log = logging.getLogger(__name__)

WRAPPED = "train.wrap_prompts"
HELD = "train.retention_dataset_name"
ENOUGH = 400
"""Answers by which the share of benign requests refused in wrappings is known to 5 points or better (95%)."""


@dataclass(frozen=True)
class Plan:
    """The inputs of a run. Training prompts are read again by the trainer, which may leave out long ones."""

    config: RunConfig
    training: Training
    attacks: list[Attack]
    goals: list[Prompt]
    benign: list[Prompt]
    gap: list[tuple[PromptClass, Prompt]]
    judges: list[Judge]
    development: DevelopmentSet | None
    questions: list[Question]
    wrappings: Sequence[Attack]
    wrapped: list[Prompt]

    @property
    def loading(self) -> dict[str, Any]:
        """How every stage loads its model, for `load_engine`."""
        return {
            "chat_template_kwargs": self.config.chat_template_kwargs,
            "max_cache_gb": self.training.config.max_cache_gb,
        }


def prepare(config: RunConfig) -> Plan:
    """Find all inputs of a run, and refuse to measure on what is trained on.

    Raises:
        UserError: a name or value in the configuration is wrong, or training and test prompts overlap.
    """
    attacks, judges, wrappings = _attacks(config)
    refusal_judge(config.gap.judge, "gap.judge")
    training = _training(config)
    own, evals = config.attack, config.evals
    goals = load_prompts(own.goals, limit=own.max_goals, seed=config.seed, flag="attack.goals", with_category=True)
    benign, wrapped = _benign(config, wrappings)
    development = _development(config, judges[0])
    _check_unseen(training, development, {"attack.goals": goals, "evals.overrefusal": benign})
    return Plan(
        config=config,
        training=training,
        attacks=attacks,
        goals=goals,
        benign=benign,
        gap=planned_gap(config, training),
        judges=judges,
        development=development,
        questions=load_questions(evals.choices, evals.max_questions) if evals.choices else [],
        wrappings=wrappings,
        wrapped=wrapped,
    )


def _training(config: RunConfig) -> Training:
    """The settings of the training, for a model that is there."""
    from sirl.models import load_tokenizer

    training = parse_training([], training_options(config), "train")
    if config.development is not None and config.development.choose and sharded(training.config):
        raise UserError(NOT_SHARDED)
    check_has_versions("model_revision", config.model_revision, config.model_name_or_path)
    # the cheapest way to find out that there is no such model
    load_tokenizer(config.model_name_or_path, revision=config.model_revision)
    return training


def _benign(config: RunConfig, wrappings: Sequence[Attack]) -> tuple[list[Prompt], list[Prompt]]:
    """Benign prompts, and those of them that are asked in wrappings too."""
    evals, seed = config.evals, config.seed
    benign = load_benign(evals.overrefusal, evals.max_prompts, seed, "evals.overrefusal") if evals.overrefusal else []
    if not wrappings:
        return benign, []
    return benign, draw_evenly(benign, prompts_each(evals.max_wrapped, len(wrappings)), seed)


def _attacks(config: RunConfig) -> tuple[list[Attack], list[Judge], Sequence[Attack]]:
    """Attacks, judges, and the wrappings that benign prompts are put into."""
    own, evals, flag = config.attack, config.evals, "attack.template_file"
    templates = load_templates(own.template_file, flag) if own.template_file else ()
    judges = load_judges(own.judge, "attack.judge")
    options = AttackOptions(budget=own.budget, judges=judges)
    attacks = resolve_attacks(own.attacks, templates, options, "attack.attacks")
    check_attacker(attacks, own.attacker_model, own.attacker_engine, "attack.attacker_model", "attack.attacker_engine")
    if evals.wrappings == ATTACKED:
        return attacks, judges, wrappings_of(attacks) if evals.overrefusal else []
    return attacks, judges, resolve_wrappings(evals.wrappings, templates) if evals.wrappings is not None else []


def _check_unseen(
    training: Training, development: DevelopmentSet | None, measured: Mapping[str, Sequence[Prompt]]
) -> None:
    """Refuse to measure on what is trained on, or on what selects the checkpoint."""
    seen = _trained_on(training)
    if development is not None:
        choosing = {"development.goals": development.goals, "development.overrefusal": development.benign}
        _check_apart(seen, choosing)
        seen |= choosing
    _check_apart(seen, measured)


def _check_apart(seen: Mapping[str, Sequence[Prompt]], measured: Mapping[str, Sequence[Prompt]]) -> None:
    for flag, prompts in seen.items():
        for name, tested in measured.items():
            check_disjoint(prompts, tested, train_name=flag, test_name=name)


def named_data(config: RunConfig) -> dict[str, str | None]:
    """The data sets that a configuration names, by key."""
    own = config.development
    return {
        "train.dataset_name": config.train.dataset_name,
        HELD: config.train.options.get("retention_dataset_name"),
        WRAPPED: config.train.options.get("wrap_prompts"),
        "gap.dataset_name": config.gap.dataset_name,
        "gap.benign_dataset_name": config.gap.benign_dataset_name,
        "attack.goals": config.attack.goals,
        "evals.overrefusal": config.evals.overrefusal,
        "development.goals": own.goals if own else None,
        "development.overrefusal": own.overrefusal if own else None,
    }


def training_options(config: RunConfig) -> Mapping[str, Any]:
    """The flags of `sirl train` that a run's configuration stands for."""
    for key in OF_ALL_STAGES:
        if key in config.train.options:
            raise UserError(f"train.{key}: set {key} at the top of the file, where it applies to all stages")
    return {
        # every stage loads the copy of the model that the run makes first
        "model_name_or_path": str(config.run_dir / BASE),
        "output_dir": str(config.run_dir),
        "seed": config.seed,
        "dataset_name": config.train.dataset_name,
        "chat_template_kwargs": dict(config.chat_template_kwargs) if config.chat_template_kwargs else None,
        **config.train.options,
    }


def _development(config: RunConfig, judge: Judge) -> DevelopmentSet | None:
    own, seed = config.development, config.seed
    if own is None:
        return None
    goals = load_prompts(own.goals, limit=own.max_goals, seed=seed, flag="development.goals", with_category=True)
    benign: Sequence[Prompt] = ()
    if own.overrefusal:
        benign = load_benign(own.overrefusal, own.max_prompts, seed, "development.overrefusal")
    wrapped = draw_evenly(benign, own.max_wrapped, seed) if own.max_wrapped else []
    attacks = resolve_attacks(own.attacks, flag="development.attacks")
    asked = len(wrapped) * len(wrappings_of(attacks))
    if own.wrapped_allowance is not None and asked < ENOUGH:
        log.warning(
            "development.wrapped_allowance: a check asks %d benign requests in wrappings; %d or more are wanted "
            "to tell a few points from chance: raise development.max_wrapped, or give more prompts or attacks",
            asked,
            ENOUGH,
        )
    return DevelopmentSet(attacks, goals, benign, judge, own.max_new_tokens, seed, wrapped)


def _trained_on(training: Training) -> dict[str, Sequence[Prompt]]:
    data = training.data
    flag = "train.dataset_name"
    out: dict[str, Sequence[Prompt]] = {
        flag: load_prompts(
            data.dataset_name or "", column=data.prompt_column, split=data.dataset_train_split, flag=flag
        )
    }
    if data.retention_dataset_name:
        out[HELD] = load_prompts(data.retention_dataset_name, flag=HELD)
    if data.wrap_prompts:
        out[WRAPPED] = load_prompts(data.wrap_prompts, flag=WRAPPED)
    return out


def planned_gap(
    config: RunConfig, training: Training, engine: LocalEngine | None = None
) -> list[tuple[PromptClass, Prompt]]:
    """Prompts of the gap check; with the engine that answers them, without those that are too long to be trained on."""
    gap, data = config.gap, training.data

    def fit(found: Sequence[Prompt], what: str) -> list[Prompt]:
        assert engine is not None
        return fitting_prompts(found, engine.tokenizer, training.config.max_prompt_tokens, engine.context, what)

    fitting = fit if engine is not None else None
    named = {"gap.benign_dataset_name": gap.benign_dataset_name, HELD: data.retention_dataset_name}
    flag, source = next(((key, name) for key, name in named.items() if name), (HELD, None))
    benign = load_prompts(source, flag=flag, with_category=True) if source else []
    limit, seed = gap.max_prompts, config.seed
    if gap.dataset_name:
        harmful = load_prompts(gap.dataset_name, flag="gap.dataset_name", with_category=True)
        return stages.gap_prompts(harmful, "harmful", benign, limit, seed, fitting)
    prompts = load_prompts(
        config.train.dataset_name,
        column=data.prompt_column,
        split=data.dataset_train_split,
        limit=data.max_prompts,
        seed=seed,
        flag="train.dataset_name",
    )
    return stages.gap_prompts(prompts, "unlabeled", benign, limit, seed, fitting)
