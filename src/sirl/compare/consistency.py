"""Trainings on consistency alone: a wrapped request is answered as the base model answers the bare one.

No judge takes part. The wrapped forms are those of the configuration's `train.wrap_prompts`, the very ones that SIRL is
held to, harmful and benign alike; its retention prompts are forms of themselves, so that what is not wrapped stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from trl import SFTConfig

from sirl.chat.encoding import encode_chat, with_template_arguments
from sirl.compare.baseline_trainers import AnswerTrainer, OnPolicyTrainer
from sirl.compare.fitting import Row, arguments_of, count_updates, fit_on, rows_beside, rows_per_update
from sirl.errors import UserError
from sirl.experiment.plan import Plan
from sirl.generation import load_engine
from sirl.generation.base import SamplingParams
from sirl.models import load_tokenizer, model_context
from sirl.progress import BarMaker, Progress, counted
from sirl.records import Conversation, Prompt
from sirl.training.retention import dealt_places
from sirl.training.run import pair_prompts, retention_prompts, training_prompts

Form = tuple[Conversation, Conversation]
"""What the policy is asked, and the bare request."""
MakeRows = Callable[[Plan, Any, Sequence[Form], Progress], list[Row]]


def train_bct(plan: Plan, bar: BarMaker) -> None:
    """TRL's SFT on wrapped requests with the base model's own greedy answers to the bare ones.

    Source: Chua et al. 2024, arXiv 2403.05518; on jailbreaks: Irpan et al. 2025, arXiv 2510.27062.
    """
    _train(plan, bar, AnswerTrainer, _imitated)


def train_opct(plan: Plan, bar: BarMaker) -> None:
    """The policy's own samples on wrapped requests, under the reverse KL to the base model given the bare ones.

    Source: arXiv 2605.21834.
    """
    config = plan.training.config
    drawing = SamplingParams(config.max_completion_length or 256, config.temperature)
    _train(plan, bar, partial(OnPolicyTrainer, drawing=drawing), _asked)


def _train(plan: Plan, bar: BarMaker, kind: Callable[..., Any], make_rows: MakeRows) -> None:
    """Fit a trainer on as many rows an update as SIRL's has of training, of retention and of pairs."""
    config, data = plan.training.config, plan.training.data
    base, most = str(plan.training.model.model_name_or_path), plan.training.config.max_prompt_tokens
    tokenizer = with_template_arguments(load_tokenizer(base), plan.config.chat_template_kwargs)
    context = model_context(base)
    updates = count_updates(config, len(training_prompts(config, data, tokenizer, context, None)))
    wrapped = pair_prompts(config, data, tokenizer, context)
    if not wrapped:
        raise UserError("no wrapped prompts to be consistent on: name unlabeled prompts in train.wrap_prompts")
    kept = retention_prompts(data, most, tokenizer, context) if config.retention_weight else []
    held = config.retention_batch_size if kept else 0
    args = arguments_of(SFTConfig, plan, updates, rows_beside(config, held, config.pair_batch_size))
    same = args.max_steps * held
    others = args.max_steps * rows_per_update(args) - same
    forms = [(p.conversation, p.clean) for p in _dealt(wrapped, others, args.seed)]
    forms += [(p.conversation, p.conversation) for p in _dealt(kept, same, args.seed)]
    with bar("answer bare requests") as progress:
        rows = make_rows(plan, tokenizer, forms, progress)
    fit_on(kind, args, plan, rows, tokenizer, bar)


def _dealt(prompts: Sequence[Prompt], rows: int, seed: int) -> list[Prompt]:
    """So many rows, each prompt once before any comes again."""
    return [prompts[i] for i in dealt_places(len(prompts), range(rows), seed)]


def _imitated(plan: Plan, tokenizer: Any, forms: Sequence[Form], progress: Progress) -> list[Row]:
    """Rows of SFT: the loss is taken on the answer alone."""
    name, config = str(plan.training.model.model_name_or_path), plan.training.config
    engine: Any = load_engine(name, **plan.loading)
    encoded = [(encode_chat(tokenizer, wrapped), tuple(encode_chat(tokenizer, asked))) for wrapped, asked in forms]
    bare = list(dict.fromkeys(asked for _, asked in encoded))
    drawn = engine.rollout(bare, SamplingParams(config.max_completion_length or 256), counted(progress, len(bare)))
    answers = {ids: list(group[0].token_ids) for ids, group in zip(bare, drawn, strict=True)}
    return [
        {"input_ids": [*before, *answers[asked]], "labels": [-100] * len(before) + answers[asked]}
        for before, asked in encoded
    ]


def _asked(_: Plan, tokenizer: Any, forms: Sequence[Form], __: Progress) -> list[Row]:
    """Rows of token ids: the policy's prompt and the bare one."""
    return [
        {"wrapped": encode_chat(tokenizer, wrapped), "bare": encode_chat(tokenizer, asked)} for wrapped, asked in forms
    ]
