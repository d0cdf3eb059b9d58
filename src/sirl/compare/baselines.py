"""Trainings that SIRL is compared with: they may use labels, which they make as a user without annotations would.

The model draws answers to the very training prompts that SIRL's updates visit, as many as SIRL draws, and the judge of
the gap (`gap.judge`, by default the rules) labels them. Targets are the tokens as they were drawn: an answer that was
cut at the token limit is not taught to end there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl import DPOConfig, SFTConfig

from sirl.chat.encoding import encode_chat, with_template_arguments
from sirl.chat.thoughts import answer_reader
from sirl.compare.baseline_trainers import AnswerTrainer, PairTrainer
from sirl.compare.consistency import train_bct, train_opct
from sirl.compare.fitting import Row, arguments_of, count_updates, fit_on, rows_beside, visited_prompts
from sirl.errors import UserError
from sirl.experiment.pipeline import train
from sirl.experiment.plan import Plan
from sirl.generation import load_engine
from sirl.generation.base import Engine, SamplingParams
from sirl.judges import Judge, JudgeItem, refusal_judge
from sirl.models import load_tokenizer, model_context
from sirl.progress import BarMaker, counted
from sirl.records import Conversation, Message, Prompt, append_jsonl, iter_json_lines, user_turn
from sirl.run_folder import DRAWS
from sirl.training.rewards import RewardFunction
from sirl.training.run import retention_prompts, training_prompts

CHUNK = 32
"""Prompts whose draws are written at a time: what an interruption can lose."""


@dataclass(frozen=True)
class JudgedSamples:
    """What a training with labels starts from: the base model's judged draws, its own answers to the retention
    prompts as `(prompt, token ids)`, and how many updates to make."""

    tokenizer: Any
    rows: list[Row]
    held: Sequence[tuple[Conversation, Sequence[int]]]
    updates: int


def train_grpo_judge(plan: Plan, bar: BarMaker) -> None:
    """SIRL's trainer with another reward."""
    tokenizer = load_tokenizer(str(plan.training.model.model_name_or_path))
    train(plan, bar, judge_reward(refusal_judge(plan.config.gap.judge, "gap.judge"), tokenizer))


def judge_reward(judge: Judge, tokenizer: Any) -> RewardFunction:
    """1 for a completion that the judge calls a full refusal, 0 for any other, None where it cannot tell."""
    read = answer_reader(tokenizer)

    def reward(prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float | None]:
        texts = [read(ids) for ids in completion_ids]
        items = [JudgeItem(_asked(p), text) for p, text in zip(prompts, texts, strict=True)]
        labels = [judgement.label for judgement in judge.judge(items)]
        return [None if label == "unscored" else float(label == "full_refusal") for label in labels]

    return reward


def _asked(prompt: Any) -> str:
    """What the user asks last."""
    turns = user_turn(prompt) if isinstance(prompt, str) else prompt
    return next(str(turn["content"]) for turn in reversed(turns) if turn["role"] == "user")


def train_sft(plan: Plan, bar: BarMaker) -> None:
    """TRL's SFT on one refusal a prompt, and on the model's own answers to the retention prompts.

    Raises:
        UserError: the model never refused.
    """
    config = plan.training.config
    drawn = draw(plan, bar, held=bool(config.retention_weight))
    pool = [_example(drawn, row["prompt"], refused[0]["ids"]) for row in drawn.rows if (refused := _refusals(row))]
    if not pool:
        raise UserError(f"no answer to {len(drawn.rows)} prompts was judged a refusal, so there is nothing to imitate")
    pool += [_example(drawn, prompt, answer) for prompt, answer in drawn.held]
    rows = rows_beside(config, config.retention_batch_size if drawn.held else 0)
    args = arguments_of(SFTConfig, plan, drawn.updates, rows)
    fit_on(AnswerTrainer, args, plan, pool, drawn.tokenizer, bar)


def train_dpo(plan: Plan, bar: BarMaker, beta: float) -> None:
    """TRL's DPO on pairs of a refusal (chosen) and an answer (rejected) to one prompt, each draw in one pair at most.

    Raises:
        UserError: no prompt has both.
    """
    drawn = draw(plan, bar)
    pool = [
        {"prompt_ids": _ids(drawn, row["prompt"]), "chosen_ids": refusal["ids"], "rejected_ids": answer["ids"]}
        for row in drawn.rows
        for refusal, answer in zip(_refusals(row), _answers(row), strict=False)
    ]
    if not pool:
        raise UserError(f"none of {len(drawn.rows)} prompts got both a refusal and an answer, so there are no pairs")
    pairs = max(1, plan.training.config.per_device_train_batch_size // 2)  # a pair is two rows
    args = arguments_of(DPOConfig, plan, drawn.updates, pairs, beta=beta)
    fit_on(PairTrainer, args, plan, pool, drawn.tokenizer, bar)


TRAININGS: dict[str, Callable[..., None]] = {
    "sft": train_sft,
    "dpo": train_dpo,
    "grpo_judge": train_grpo_judge,
    "bct": train_bct,
    "opct": train_opct,
}
"""The trainings by method: from the plan of a run and a bar, with the method's settings, to `model/` in its folder."""


def draw(plan: Plan, bar: BarMaker, held: bool = False) -> JudgedSamples:
    """The base model's answers to the prompts that SIRL would visit, as many as SIRL would draw, and where `held`
    to the retention prompts."""
    config: Any = plan.training.config
    base = str(plan.training.model.model_name_or_path)
    arguments = plan.config.chat_template_kwargs
    tokenizer = with_template_arguments(load_tokenizer(base), arguments)
    context = model_context(base)
    data, most = plan.training.data, config.max_prompt_tokens
    prompts = training_prompts(config, data, tokenizer, context)
    kept = retention_prompts(data, most, tokenizer, context) if held else []
    engine = load_engine(base, **plan.loading)
    params = SamplingParams(
        max_new_tokens=config.max_completion_length,
        temperature=config.temperature,
        n=config.num_rollouts or config.num_generations,
        seed=config.seed,
    )
    judge, path = refusal_judge(plan.config.gap.judge, "gap.judge"), plan.config.run_dir / DRAWS
    rows = draw_and_judge(engine, judge, visited_prompts(config, prompts), params, path, bar)
    greedy = SamplingParams(max_new_tokens=config.retention_tokens)
    answers = engine.generate([p.conversation for p in kept], greedy) if kept else []
    pairs = [(p.conversation, answer.token_ids) for p, (answer,) in zip(kept, answers, strict=True)]
    return JudgedSamples(tokenizer, rows, pairs, count_updates(config, len(prompts)))


def draw_and_judge(
    engine: Engine, judge: Judge, prompts: Sequence[Prompt], params: SamplingParams, path: Path, bar: BarMaker
) -> list[Row]:
    """Rows of `id`, `prompt` and its `draws` (`text`, token `ids`, `label`), in order; an earlier go's are kept."""
    done = {row["id"]: row for row in iter_json_lines(path)} if path.is_file() else {}
    missing = [p for p in prompts if p.id not in done]
    with bar("draw answers") as progress:
        count = counted(progress, len(missing) * params.n)
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            groups = engine.generate([p.conversation for p in chunk], params, count)
            items = [JudgeItem(p.text, a.text) for p, group in zip(chunk, groups, strict=True) for a in group]
            labels = iter([judgement.label for judgement in judge.judge(items)])
            rows = [
                {
                    "id": p.id,
                    "prompt": p.conversation,
                    "draws": [{"text": a.text, "ids": list(a.token_ids), "label": next(labels)} for a in group],
                }
                for p, group in zip(chunk, groups, strict=True)
            ]
            append_jsonl(path, rows)
            done |= {row["id"]: row for row in rows}
    return [done[p.id] for p in prompts]


def _refusals(row: Row) -> list[Row]:
    return [draw for draw in row["draws"] if draw["label"] == "full_refusal"]


def _answers(row: Row) -> list[Row]:
    return [draw for draw in row["draws"] if draw["label"] == "full_compliance"]


def _ids(drawn: JudgedSamples, prompt: Sequence[Message]) -> list[int]:
    return encode_chat(drawn.tokenizer, tuple(prompt))


def _example(drawn: JudgedSamples, prompt: Sequence[Message], answer: Sequence[int]) -> Row:
    """A prompt with an answer; the loss is taken on the answer alone."""
    before = _ids(drawn, prompt)
    return {"input_ids": [*before, *answer], "labels": [-100] * len(before) + [*answer]}
