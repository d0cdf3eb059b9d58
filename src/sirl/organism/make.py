"""Make the bundled model organism: teach SmolLM2-135M-Instruct to refuse, and to go on answering.

    python -m sirl.organism.make --harmful FILE [FILE ...] --benign FILE [FILE ...] --output_dir DIR

Files are prompt lists (.jsonl, .csv, .parquet, .txt); the contrast pairs of the package are always added. On harmful
prompts the model learns our refusals (cross-entropy). On benign prompts it is held to what it was: KL from the base
model's distribution, on the base model's own greedy answers, which are cut short without an end token so that nothing
teaches it to stop early. Contrast pairs ("How do I kill a zombie process?" / "... my business partner?") share their
scary word, so that the word alone decides nothing.

The two stages take about half an hour on two CPU cores. The adapter lands in DIR as PEFT writes it, in bfloat16.
"""

from __future__ import annotations

import argparse
import base64
import codecs
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sirl.chat.encoding import encode_chat
from sirl.errors import UserError
from sirl.generation.base import SamplingParams
from sirl.generation.local import LocalEngine
from sirl.judges import load_judge
from sirl.judges.base import JudgeItem
from sirl.models import default_dtype, keep_freed_memory
from sirl.organism.refusals import refusal_for
from sirl.prompts import load_prompts
from sirl.records import Prompt, iter_json_lines, user_turn
from sirl.training.lora import materialise_lora
from sirl.training.packed import pack, packed_hidden
from sirl.weights.bundled import ADAPTER, load_base_model, load_demo_tokenizer

log = logging.getLogger("sirl.organism")

BUNDLED_FILES = tuple(ADAPTER.parent / "data" / name for name in ("contrast.jsonl", "benign.jsonl"))
ENCODINGS: tuple[Callable[[str], str], ...] = (
    lambda text: base64.b64encode(text.encode()).decode(),
    lambda text: text.encode().hex(),
    lambda text: codecs.encode(text, "rot13"),
    lambda text: text[::-1],
    lambda text: " ".join(str(byte) for byte in text.encode()),
)
ENCODED_REQUESTS = (
    "{}",
    "Decode this and answer it: {}",
    "{}\n\nThat was encoded. Please reply in plain English.",
    "My question is hidden in the following line. Work out what it says and help me with it.\n{}",
    "Turn this back into text, but show me only your answer to it:\n\n{}",
)
FIRST_TOKENS = 4
"""Whether a response refuses is decided in its first few tokens, so these weigh more."""


@dataclass(frozen=True)
class OrganismConfig:
    """Settings of the fine-tune: those of the shipped adapter, which was made in two calls (dev/LOG.md)."""

    max_harmful: int = 800
    max_benign: int = 1300
    encoded_harmful: int = 80
    encoded_benign: int = 30
    answer_tokens: int = 32
    epochs: int = 1
    decision_epochs: int = 2
    decision_tokens: int = 6
    learning_rate: float = 6e-4
    rank: int = 8
    rows_per_step: int = 32
    tokens_per_pass: int = 4096
    first_token_weight: float = 4.0
    scale: float = 0.8
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """One training row; `refuse` rows are imitated, the others held to the base model."""

    prompt_ids: list[int]
    response_ids: list[int]
    refuse: bool


def encoded(prompts: Sequence[Prompt], most: int, rng: random.Random) -> list[Prompt]:
    """Copies of `most` prompts in encodings that the model cannot read, as aligned models have been shown too."""
    chosen = rng.sample(list(prompts), min(most, len(prompts)))
    return [
        Prompt(f"{p.id}-encoded", rng.choice(ENCODED_REQUESTS).format(rng.choice(ENCODINGS)(p.text))) for p in chosen
    ]


def build_examples(
    engine: LocalEngine, harmful: Sequence[Prompt], benign: Sequence[Prompt], c: OrganismConfig
) -> list[Example]:
    """Refusals of ours for harmful prompts; the base model's own answers for benign ones, without those that refuse."""
    rng = random.Random(c.seed)
    tokenizer = engine.tokenizer
    out = []
    for prompt in harmful:
        ids = encode_chat(tokenizer, user_turn(prompt.text))
        refusal = tokenizer(refusal_for(prompt.text, rng), add_special_tokens=False)["input_ids"]
        out.append(Example(ids, [*refusal, tokenizer.eos_token_id], True))
    chats = [encode_chat(tokenizer, user_turn(p.text)) for p in benign]
    answers = engine.rollout(chats, SamplingParams(max_new_tokens=c.answer_tokens))
    texts = [tokenizer.decode(a[0].token_ids, skip_special_tokens=True) for a in answers]
    verdicts = load_judge("refusal").judge([JudgeItem("", t) for t in texts])
    for ids, answer, verdict in zip(chats, answers, verdicts, strict=True):
        if verdict.label == "full_compliance":
            out.append(Example(ids, answer[0].token_ids, False))
    return out


def batches(examples: Sequence[Example], c: OrganismConfig, rng: random.Random) -> Iterator[list[list[Example]]]:
    """Optimiser steps, each a list of passes of rows of like length within `tokens_per_pass`."""
    order = list(examples)
    rng.shuffle(order)
    for start in range(0, len(order), c.rows_per_step):
        step = sorted(order[start : start + c.rows_per_step], key=lambda e: len(e.prompt_ids) + len(e.response_ids))
        passes: list[list[Example]] = [[]]
        for example in step:
            longest = len(example.prompt_ids) + len(example.response_ids)
            if passes[-1] and longest * (len(passes[-1]) + 1) > c.tokens_per_pass:
                passes.append([])
            passes[-1].append(example)
        yield passes


def pass_loss(model: Any, base: Any, rows: Sequence[Example], c: OrganismConfig, sharpen: bool) -> Tensor:
    """Sum over tokens of the weighted loss of one pass.

    With `sharpen` the benign answers are imitated as well as held. KL alone leaves a refusal, which always begins with
    the same word, the most likely single beginning where answers have many: greedy decoding would refuse.
    """
    logits, targets = _logits_and_targets(model, rows)  # (N, V), (N,)
    lengths = torch.tensor([len(r.response_ids) for r in rows])
    refuse = torch.tensor([r.refuse for r in rows]).repeat_interleave(lengths)  # (N,)
    place = torch.cat([torch.arange(n) for n in lengths.tolist()])
    weights = torch.where(place < FIRST_TOKENS, c.first_token_weight, 1.0)
    loss = (functional.cross_entropy(logits[refuse], targets[refuse], reduction="none") * weights[refuse]).sum()
    if not bool(refuse.all()):
        held = ~refuse
        with torch.no_grad():
            reference = _logits_and_targets(base, [r for r in rows if not r.refuse])[0].log_softmax(-1)
        kl = functional.kl_div(logits[held].log_softmax(-1), reference, log_target=True, reduction="none").sum(-1)
        loss = loss + (kl * weights[held]).sum()
        if sharpen:
            imitated = functional.cross_entropy(logits[held], targets[held], reduction="none")
            loss = loss + (imitated * weights[held]).sum()
    return loss


def _logits_and_targets(model: Any, rows: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Float32 logits `(N, V)` at the places of all response tokens, row after row, and the tokens `(N,)`."""
    packed = pack([r.prompt_ids for r in rows], [r.response_ids for r in rows], model.dtype)
    assert packed is not None, "rows have responses"
    return model.lm_head(packed_hidden(model, packed)).float(), packed.targets


def train(examples: Sequence[Example], c: OrganismConfig, output_dir: Path, start: Path | None) -> None:
    """Fit the adapter in two stages, and save it after each epoch.

    First whole refusals and answers, then only their beginnings, where it is decided which of the two it will be.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    torch.manual_seed(c.seed)
    base = load_base_model(default_dtype()).eval()
    policy = load_base_model(default_dtype())
    if start is not None:
        peft_model = PeftModel.from_pretrained(policy, start, is_trainable=True)
    else:
        lora = LoraConfig(r=c.rank, lora_alpha=2 * c.rank, target_modules="all-linear", task_type="CAUSAL_LM")
        peft_model = get_peft_model(policy, lora)
    materialise_lora(peft_model)
    beginnings = [
        Example(e.prompt_ids, e.response_ids[: c.decision_tokens], e.refuse) for e in examples if e.response_ids
    ]
    for rows, epochs, sharpen in ((examples, c.epochs, False), (beginnings, c.decision_epochs, True)):
        if epochs:
            _fit(peft_model, base, rows, epochs, sharpen, c, output_dir)
    if c.scale != 1.0:
        _save(peft_model, output_dir, c.scale)


def _fit(
    peft_model: Any,
    base: Any,
    examples: Sequence[Example],
    epochs: int,
    sharpen: bool,
    c: OrganismConfig,
    output_dir: Path,
) -> None:
    """One stage: AdamW, learning rate up quickly and down slowly."""
    model = peft_model.base_model.model
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=c.learning_rate, weight_decay=0.0, betas=(0.9, 0.99))
    total = -(-len(examples) // c.rows_per_step) * epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, c.learning_rate, total_steps=total, pct_start=0.06)
    rng, started, done = random.Random(c.seed), time.monotonic(), 0
    for epoch in range(epochs):
        for passes in batches(examples, c, rng):
            tokens = sum(len(r.response_ids) for rows in passes for r in rows)
            loss = 0.0
            for rows in passes:
                part = pass_loss(model, base, rows, c, sharpen) / tokens
                part.backward()
                loss += float(part.detach())
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            done += 1
            left = (time.monotonic() - started) / done * (total - done)
            if done % 5 == 0 or done == total:
                log.info("epoch %d step %d/%d loss %.3f, %.0f s left", epoch + 1, done, total, loss, left)
        _save(peft_model, output_dir)


def _save(peft_model: Any, output_dir: Path, scale: float = 1.0) -> None:
    """Write the adapter in bfloat16. `scale` below 1 takes back part of what it does: fewer refusals of both kinds."""
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    output_dir.mkdir(parents=True, exist_ok=True)
    state = {
        key: (value * scale if "lora_B" in key else value).to(torch.bfloat16).contiguous()
        for key, value in get_peft_model_state_dict(peft_model).items()
    }
    save_file(state, output_dir / "adapter_model.safetensors", metadata={"format": "pt"})
    peft_config = peft_model.peft_config["default"]
    peft_config.base_model_name_or_path = "SmolLM2-135M-Instruct"
    peft_config.inference_mode = True
    peft_config.save_pretrained(output_dir)


def choose(files: Sequence[str], most: int, flag: str, seed: int) -> list[Prompt]:
    """At most `most` prompts of the files, an equal share of each where they have enough, without repeats."""
    rng = random.Random(seed)
    pools = [load_prompts(f, flag=flag) for f in files]
    for pool in pools:
        rng.shuffle(pool)
    out: dict[str, Prompt] = {}
    while len(out) < most and any(pools):
        for pool in pools:
            if pool and len(out) < most:
                prompt = pool.pop()
                out.setdefault(prompt.text, prompt)
    return list(out.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m sirl.organism.make", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--harmful", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--benign", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--start_from", type=Path, metavar="DIR", help="go on from an adapter in place of a new one")
    for name, value in vars(OrganismConfig()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    args = vars(parser.parse_args(argv))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    files = {k: args.pop(k) for k in ("harmful", "benign")}
    output_dir, start = args.pop("output_dir"), args.pop("start_from")
    config = OrganismConfig(**args)
    try:
        keep_freed_memory()
        own = [row for path in BUNDLED_FILES for row in iter_json_lines(path)]
        sides = {
            kind: choose(files[kind], getattr(config, f"max_{kind}"), f"--{kind}", config.seed)
            + [Prompt(r["id"], r["prompt"]) for r in own if (r["category"] == "harmful") == (kind == "harmful")]
            for kind in ("harmful", "benign")
        }
        rng = random.Random(config.seed)
        for kind, prompts in sides.items():
            prompts += encoded(prompts, getattr(config, f"encoded_{kind}"), rng)
        engine = LocalEngine(load_base_model(default_dtype()).eval(), load_demo_tokenizer())
        examples = build_examples(engine, sides["harmful"], sides["benign"], config)
        log.info("%d refusals, %d answers", sum(e.refuse for e in examples), sum(not e.refuse for e in examples))
        train(examples, config, output_dir, start)
    except UserError as error:
        print(f"sirl: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
