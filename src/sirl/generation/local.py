"""`LocalEngine`: a transformers model in this process behind the `Engine` interface."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sirl.chat.encoding import (
    EncodingError,
    attempted,
    check_length,
    context_length,
    encode_chat,
    encode_text,
    spread,
)
from sirl.chat.thoughts import answer_reader
from sirl.entropy import greedy_with_entropy, sample_with_entropy
from sirl.errors import UserError
from sirl.generation.base import UNSCORABLE, SamplingParams
from sirl.generation.cache import shared_keys, supports_decode_cache
from sirl.generation.cpu_decoder import prepacked
from sirl.generation.decode import Rollout, collect, decode_batch, left_pad, plan_batches, uniforms_for
from sirl.generation.memory import cache_bytes
from sirl.generation.scoring import (
    check_pairs,
    continuation_logits,
    continuation_scores,
    one_hot_gradients,
    printable_pieces,
)
from sirl.models import contiguous_head
from sirl.records import Completion, Conversation

MAX_ROWS = 256


class LocalEngine:
    """Batched generation from a model in memory, with exact token entropies.

    Models of plain full attention (Llama, Qwen2, Qwen3, Mistral) take our decode loop, on a CPU with a copy of the
    weights laid out for it, so that the engine answers as the model was when the engine was made. Any other causal LM
    goes through `transformers.generate` with the entropy read from its logits.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str = "local",
        max_rows: int = MAX_ROWS,
        max_cache_gb: float | None = None,
    ) -> None:
        """`max_cache_gb` (GiB) bounds the keys and values of a batch; by default see `cache_bytes`."""
        contiguous_head(model)
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.max_rows = max_rows
        self.max_cache_gb = max_cache_gb
        self.context = context_length(model.config)
        """Tokens that the model takes, its answer included; None: no limit."""
        self.eos_ids = eos_token_ids(model, tokenizer)
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_ids[0]
        self._pieces: dict[int, str] = {}
        self._read = answer_reader(tokenizer)
        self._printable: dict[int, str] | None = None
        self._prepacked = prepacked(model)

    def generate(
        self,
        conversations: Sequence[Conversation],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`."""
        return self._answers(self.encode(conversations), params, progress)

    def generate_both(
        self,
        conversations: Sequence[Conversation],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """The greedy answer to each conversation, and `params.n` sampled ones behind it, from one prefill.

        The answers of two calls of `generate`, up to rounding.
        """
        return self._answers(self.encode(conversations), params, progress, greedy=True)

    def complete(
        self,
        texts: Sequence[str],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """See `TextEngine.complete`."""
        prompts = attempted(lambda text: encode_text(self.tokenizer, text, self.context), texts)
        return [answer for (answer,) in self._answers(prompts, replace(params, n=1), progress)]

    def encode(self, conversations: Sequence[Conversation]) -> list[list[int] | EncodingError]:
        """Token ids of each conversation, or why it cannot be put to this model."""
        return attempted(lambda c: encode_chat(self.tokenizer, c, self.context), conversations)

    def _answers(
        self,
        prompts: Sequence[list[int] | EncodingError],
        params: SamplingParams,
        progress: Callable[[int], None] | None,
        greedy: bool = False,
    ) -> list[list[Completion]]:
        each = params.n + greedy

        def failed(error: EncodingError) -> list[Completion]:
            if progress is not None:
                progress(each)
            return [Completion.failed(str(error))] * each

        return spread(prompts, lambda ids: self.answer_ids(ids, params, progress, greedy), failed)

    def answer_ids(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
        greedy: bool = False,
    ) -> list[list[Completion]]:
        """`rollout`, as completions."""
        groups = self.rollout(prompts, params, progress, greedy=greedy)
        return [[self._completion(r) for r in group] for group in groups]

    def rollout(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
        first_sample: int = 0,
        greedy: bool = False,
    ) -> list[list[Rollout]]:
        """Token ids in, `params.n` rollouts a prompt out, in order. A rollout ends where the model's context does.

        That a prompt leaves room for an answer is for the caller to see (`encode`). `first_sample` is the index of the
        first one within its group: a group shared out over processes draws the same responses as one process would.
        With `greedy` the prompt's greedy answer comes before them.
        """
        if greedy and params.temperature == 0:
            raise ValueError("greedy and sampled answers together need a temperature above 0")
        each = params.n + greedy
        out: list[list[Rollout]] = [[] for _ in prompts]
        steps = [self._steps(prompt, params) for prompt in prompts]
        # the loop keeps n rows a prompt; a group larger than a batch would break the memory bound
        limit = max(self.max_rows, each)
        draws = self._uniforms(prompts, params, first_sample)
        if greedy:  # draws nothing
            draws = [np.pad(own, ((1, 0), (0, 0))) for own in draws]
        cells = cache_bytes(self.model.device, self.max_cache_gb) // bytes_per_token(self.model)
        fast = supports_decode_cache(self.model.config)
        run = decode_batch if fast else generate_batch
        with shared_keys(self.model) if fast else nullcontext():
            for tokens in sorted(set(steps), reverse=True):
                rows = [i for i, own in enumerate(steps) if own == tokens]
                capped = replace(params, max_new_tokens=tokens)
                for batch in plan_batches([prompts[i] for i in rows], each, tokens, limit, cells):
                    places = [rows[i] for i in batch]
                    chosen = [prompts[i] for i in places]
                    uniforms = torch.from_numpy(np.concatenate([draws[i][:, :tokens] for i in places]))
                    model = self._prepacked or self.model
                    groups = run(model, chosen, uniforms, capped, self.eos_ids, self.pad_id, progress, greedy)
                    for i, group in zip(places, groups, strict=True):
                        out[i] = group
        return out

    def _steps(self, prompt: Sequence[int], params: SamplingParams) -> int:
        """Tokens that a prompt's answers may have: nearly always `max_new_tokens`, fewer where the context ends."""
        room = 0 if self.context is None else self.context - len(prompt)
        return min(params.max_new_tokens, room) if room > 0 else params.max_new_tokens

    @property
    def parameters(self) -> int:
        """How many the model has."""
        return sum(p.numel() for p in self.model.parameters())

    def count_tokens(self, conversations: Sequence[Conversation]) -> list[int]:
        """See `ScoringEngine.count_tokens`."""
        return [0 if isinstance(ids, EncodingError) else len(ids) for ids in self.encode(conversations)]

    def text_pieces(self) -> list[str]:
        """See `ScoringEngine.text_pieces`."""
        if self._printable is None:
            self._printable = printable_pieces(self.tokenizer)
        return list(self._printable.values())

    def target_logprobs(
        self, conversations: Sequence[Conversation], targets: Sequence[str], mean: bool = False
    ) -> list[float]:
        """See `ScoringEngine.target_logprobs`; the target is tokenised by itself, as generation would write it."""
        encoded = [self.tokenizer(target, add_special_tokens=False)["input_ids"] for target in targets]
        pairs = [
            ids if isinstance(ids, EncodingError) else (ids, target)
            for ids, target in zip(self.encode(conversations), encoded, strict=True)
        ]

        def run(known: list[tuple[list[int], list[int]]]) -> list[float]:
            rows = self.token_logprobs([ids for ids, _ in known], [target for _, target in known])
            return [sum(row) / (len(row) if mean else 1) for row in rows]

        return spread(pairs, run, lambda _: UNSCORABLE)

    def token_logprobs(self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `GradientEngine.token_logprobs`. What prompts begin with alike is computed once for neighbours."""
        return [logprobs for logprobs, _ in self.token_scores(prompts, targets)]

    def token_scores(
        self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[tuple[list[float], bool]]:
        """As `token_logprobs`, and whether greedy decoding would give the target."""
        check_pairs(prompts, targets)
        fast = supports_decode_cache(self.model.config)

        def fit(pair: tuple[Sequence[int], Sequence[int]]) -> tuple[Sequence[int], Sequence[int]]:
            self._check_target(*pair)
            return pair

        def run(pairs: list[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[list[float], bool]]:
            known, wanted = ([pair[i] for pair in pairs] for i in (0, 1))
            with shared_keys(self.model) if fast else nullcontext():
                return continuation_scores(self._prepacked or self.model, known, wanted, self.pad_id, share=fast)

        return spread(attempted(fit, list(zip(prompts, targets, strict=True))), run, lambda _: ([UNSCORABLE], False))

    def answer_logprobs(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Iterator[tuple[int, Tensor]]:
        """Each pair's index and the log-probabilities `(T, V)`, float32, at the tokens of its answer; in no order."""
        prompts, answers = [prompt for prompt, _ in pairs], [answer for _, answer in pairs]
        check_pairs(prompts, answers)
        fast = supports_decode_cache(self.model.config)
        with shared_keys(self.model) if fast else nullcontext():
            for i, logits in continuation_logits(
                self._prepacked or self.model, prompts, answers, self.pad_id, share=fast
            ):
                yield i, logits.float().log_softmax(-1)

    def one_hot_gradients(
        self, prompts: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]], targets: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """See `GradientEngine.one_hot_gradients`."""
        for prompt, target in zip(prompts, targets, strict=True):
            self._check_target(prompt, target)
        return one_hot_gradients(self.model, prompts, spans, targets, self.pad_id)

    def _check_target(self, prompt: Sequence[int], target: Sequence[int]) -> None:
        """Raise `EncodingError` where a target does not fit behind its prompt; its last token is never read."""
        if self.context is not None:
            check_length([*prompt, *target[:-1]], self.context + 1)

    def _uniforms(self, prompts: Sequence[Sequence[int]], params: SamplingParams, first: int) -> list[np.ndarray]:
        """Uniforms `(n, max_new_tokens)` by prompt; a prompt that comes twice gets fresh ones."""
        if params.temperature == 0:
            return [np.zeros((params.n, params.max_new_tokens), dtype=np.float32)] * len(prompts)
        seen: Counter[tuple[int, ...]] = Counter()
        out = []
        for prompt in prompts:
            key = tuple(prompt)
            out.append(np.stack([uniforms_for(key, params, seen[key], first + j) for j in range(params.n)]))
            seen[key] += 1
        return out

    def _completion(self, rollout: Rollout) -> Completion:
        if not all(map(math.isfinite, rollout.entropies)):
            return Completion.failed("the model's output is not finite: it overflows in this dtype, or its weights do")
        return Completion(
            text=self._read(rollout.token_ids),
            token_ids=tuple(rollout.token_ids),
            tokens=tuple(self._piece(t) for t in rollout.token_ids),
            entropies=tuple(round(h, 5) for h in rollout.entropies),
            finish_reason="stop" if rollout.finished else "length",
        )

    def _piece(self, token_id: int) -> str:
        if token_id not in self._pieces:
            text = self.tokenizer.decode([token_id])
            raw = self.tokenizer.convert_ids_to_tokens(token_id)
            # of a SentencePiece tokenizer, decoding takes away the space that stands before the first word
            self._pieces[token_id] = f" {text}" if str(raw).startswith("▁") and not text.startswith(" ") else text
        return self._pieces[token_id]


def bytes_per_token(model: Any) -> int:
    """Memory of one token's keys and values in all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * dim * model.dtype.itemsize)


def eos_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends a turn, by the model's generation config and the tokenizer."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = list(configured) if isinstance(configured, list | tuple) else [configured]
    found = [i for i in dict.fromkeys([*ids, tokenizer.eos_token_id]) if i is not None]
    if not found:
        raise UserError(
            "--model_name_or_path: the tokenizer has no end-of-sequence token; set `eos_token` in its config"
        )
    return found


@torch.inference_mode()
def generate_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    uniforms: Tensor,
    params: SamplingParams,
    eos_ids: Sequence[int],
    pad_id: int,
    progress: Callable[[int], None] | None = None,
    greedy: bool = False,
) -> list[list[Rollout]]:
    """`decode_batch` by way of `transformers.generate`: slower, for any architecture."""
    if greedy:  # two calls: what has been prefilled is lost with the first
        sampled = uniforms.unflatten(0, (len(prompts), -1))[:, 1:].flatten(0, 1)
        ways = ((uniforms, replace(params, temperature=0.0, n=1)), (sampled, params))
        parts = [generate_batch(model, prompts, u, own, eos_ids, pad_id, progress) for u, own in ways]
        return [[*one, *more] for one, more in zip(*parts, strict=True)]
    ids, mask = left_pad(prompts, pad_id, model.device)
    n = params.n if params.temperature > 0 else 1  # greedy decoding gives one answer, however often it is asked
    draw = DrawToken(uniforms.to(model.device), params.temperature)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # of PEFT; the adapters stay in it
    with _plain_generation(inner):
        out = inner.generate(
            input_ids=ids.repeat_interleave(n, 0),
            attention_mask=mask.repeat_interleave(n, 0),
            max_new_tokens=params.max_new_tokens,
            do_sample=False,  # `draw` leaves one token to choose from
            logits_processor=[draw],
            eos_token_id=list(eos_ids),
            pad_token_id=pad_id,
        )
    tokens = [_cut(row, eos_ids) for row in out[:, ids.shape[1] :].tolist()]
    scores = [torch.stack(steps, 1).tolist() for steps in (draw.entropies, draw.logprobs)]
    groups = collect(tokens, scores, set(eos_ids), n)
    if progress is not None:
        progress(len(prompts) * params.n)
    return [group * (params.n // n) for group in groups]


class DrawToken:
    """Logits processor that draws the token itself, by the same uniforms as our decode loop, and notes its entropy.

    `generate` would draw from one generator for the whole batch, so that a response depended on its neighbours, and
    would have to keep the logits of every step to the end.
    """

    def __init__(self, uniforms: Tensor, temperature: float) -> None:
        self.uniforms, self.temperature = uniforms, temperature  # (R, T)
        self.entropies: list[Tensor] = []
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.temperature > 0:
            column = self.uniforms[:, len(self.entropies)]
            drawn, entropy, logprob = sample_with_entropy(scores, column, self.temperature)
        else:
            drawn, entropy, logprob = greedy_with_entropy(scores)
        self.entropies.append(entropy)
        self.logprobs.append(logprob)
        return torch.full_like(scores, -torch.inf).scatter_(-1, drawn[:, None], 0.0)


@contextmanager
def _plain_generation(model: Any) -> Iterator[None]:
    """Without the model's own generation settings: a repetition penalty or the like would change the distribution."""
    settings = model.generation_config
    model.generation_config = type(settings)()
    try:
        yield
    finally:
        model.generation_config = settings


def _cut(row: list[int], eos_ids: Sequence[int]) -> list[int]:
    """Token ids of one generated row with -1 behind the end-of-turn token, where `generate` pads."""
    end = next((i + 1 for i, t in enumerate(row) if t in eos_ids), len(row))
    return row[:end] + [-1] * (len(row) - end)
