"""lm-evaluation-harness (extra `eval`; MIT) with our engine as its model: it asks and scores, we decode.

Chats only: every context comes from the model's chat template, which wrote its control tokens.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from sirl.chat.encoding import template_arguments
from sirl.errors import UserError, suggestion
from sirl.evals.benchmarks import FOLDER, LUCK, OURS, Benchmark, Table
from sirl.generation.base import SamplingParams
from sirl.generation.local import LocalEngine
from sirl.progress import Progress, counted

FIRST_ROUND = 64
"""Tokens of the first round of decoding. Each next one has twice as many, and only for answers still without a stop."""

TARGET_TOKENS = 2048
"""Tokens of continuations scored at once, padding included: each has the logits of the whole vocabulary."""

Tokens = list[int]


class EngineLM(TemplateLM):  # type: ignore[misc]  # untyped
    """A `LocalEngine` as the harness sees a model. Contexts that are too long lose their beginning."""

    def __init__(self, engine: LocalEngine, progress: Progress) -> None:
        super().__init__()
        self.engine, self.tokenizer = engine, engine.tokenizer
        self.progress = progress
        self.max_length = engine.context or 2048

    @property
    def eot_token_id(self) -> int:
        """The token before a text without a context: the one that begins sequences, or else the one that ends them."""
        begin = self.tokenizer.bos_token_id
        return int(self.engine.eos_ids[0] if begin is None else begin)

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache keys."""
        return self.engine.name.replace("/", "__")

    def tok_encode(self, string: str, **_: Any) -> Tokens:
        """Token ids of a text in which the chat template wrote the special ones."""
        whole = string.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair has no tokens
        return list(self.tokenizer(whole, add_special_tokens=False)["input_ids"])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the model reads it; without a generation prompt its last turn is gone on from."""
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **template_arguments(self.tokenizer),
        )
        return text

    def _encode_pair(self, context: str, continuation: str) -> tuple[Tokens, Tokens]:
        """A continuation's tokens as the model would write them behind the context. The harness would count spaces at
        the context's end among them: the line break of a chat template, which the model never writes."""
        first, whole = self.tok_encode(context), self.tok_encode(context + continuation)
        return first, whole[len(first) :] if whole[: len(first)] == first else self.tok_encode(continuation)

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        tell = counted(self.progress, len(requests))
        out: list[tuple[float, bool]] = []
        pairs = [(list(context) or [self.eot_token_id], list(target)) for _, context, target in requests]
        for part in _slices([self._fit(*pair) for pair in pairs]):
            out += self._scores(part)
            tell(len(part))
        return out

    def _scores(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether greedy decoding gives it; 0 and yes for an empty one."""
        some = [pair for pair in pairs if pair[1]]
        found = iter(self.engine.token_scores([p for p, _ in some], [t for _, t in some]))
        out = []
        for _, target in pairs:
            logprobs, greedy = next(found) if target else ([], True)
            out.append((sum(logprobs), greedy))
        return out

    def _fit(self, context: Tokens, target: Tokens) -> tuple[Tokens, Tokens]:
        target = target[-(self.max_length - 1) :]
        return context[-(self.max_length + 1 - len(target)) :], target

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows as long as the model allows."""
        del disable_tqdm
        tell = counted(self.progress, len(requests))
        out = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.eot_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            # one at a time: each may fill the model's whole length
            scores = [self._scores([(list(c), list(t))])[0][0] for c, t in map(make_disjoint_window, windows)]
            out.append(sum(scores))
            tell(1)
        return out

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers up to the first stop string, the end of the turn, or `max_gen_toks`."""
        del disable_tqdm
        groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(_settings(request.args[1]), []).append(i)
        tell = counted(self.progress, len(requests))
        out = [""] * len(requests)
        for (stops, most), rows in groups.items():
            most = min(most, self.max_length // 2)
            prompts = [self.tok_encode(requests[i].args[0])[most - self.max_length :] for i in rows]
            for i, answer in zip(rows, self._decode(prompts, stops, most, tell), strict=True):
                out[i] = answer
        return out

    def _decode(
        self, prompts: list[Tokens], stops: tuple[str, ...], most: int, tell: Callable[[int], None]
    ) -> list[str]:
        """Texts decoded greedily in rounds: an answer that holds a stop string takes no part in the next one."""
        answers: list[Tokens] = [[] for _ in prompts]
        going, done = list(range(len(prompts))), 0
        while going:
            tokens = min(most - done, max(FIRST_ROUND, done) if stops else most)
            done += tokens
            started = [prompts[i] + answers[i] for i in going]
            ended = []
            for i, (rollout,) in zip(going, self.engine.rollout(started, SamplingParams(tokens)), strict=True):
                answers[i] += rollout.token_ids
                if rollout.finished or done == most or any(stop in self._text(answers[i]) for stop in stops):
                    ended.append(i)
            tell(len(ended))
            going = sorted(set(going) - set(ended))
        return [_cut(self._text(answer), stops) for answer in answers]

    def _text(self, tokens: Tokens) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text


def _settings(given: dict[str, Any]) -> tuple[tuple[str, ...], int]:
    """Stop strings and token limit of a request's generation settings.

    Raises:
        UserError: they ask for samples, which would add noise to the difference of two models.
    """
    if given.get("do_sample"):
        raise UserError("--tasks: the task samples its answers (do_sample); ours are greedy")
    until = given.get("until") or []
    stops = tuple(s for s in ([until] if isinstance(until, str) else until) if s)
    return stops, int(given.get("max_gen_toks") or given.get("max_new_tokens") or 256)


def _cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string."""
    places = [place for place in map(text.find, stops) if place >= 0]
    return text[: min(places)] if places else text


def _slices(pairs: Sequence[tuple[Tokens, Tokens]]) -> Iterator[list[tuple[Tokens, Tokens]]]:
    """Neighbours whose continuations together have at most `TARGET_TOKENS`, padded to each other."""
    part: list[tuple[Tokens, Tokens]] = []
    for pair in pairs:
        if part and (len(part) + 1) * max(len(target) for _, target in [*part, pair]) > TARGET_TOKENS:
            yield part
            part = []
        part.append(pair)
    if part:
        yield part


def check_names(benchmarks: Sequence[Benchmark]) -> None:
    """Look up the harness's own tasks among benchmarks in its index, which takes seconds; their data are not sought.

    Raises:
        UserError: it has no task, group or tag of such a name.
    """
    own = [one.name for one in benchmarks if _is_own(one)]
    known = _manager(FOLDER, True).all_tasks if own else []
    for name in own:
        if name not in known:
            raise UserError(
                f"--tasks {name}: lm-evaluation-harness has no task of this name{suggestion(name, [*OURS, *known])}"
            )


def _is_own(benchmark: Benchmark) -> bool:
    """Whether a benchmark is one that comes with the harness."""
    return not benchmark.config and benchmark.include is None


def _manager(folder: Path, defaults: bool) -> TaskManager:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_path=str(folder), include_defaults=defaults)


def run_benchmark(benchmark: Benchmark, lm: EngineLM, limit: int | None = None) -> list[Table]:
    """The model's rows on one benchmark, see `sirl.evals.benchmarks`.

    Raises:
        UserError: the harness has no such task, or its data cannot be reached.
    """
    ours = bool(benchmark.config)
    try:
        found = simple_evaluate(
            model=lm,
            tasks=[ConfigurableTask(config=dict(benchmark.config)) if ours else benchmark.name],
            task_manager=_manager(benchmark.include or FOLDER, _is_own(benchmark)),
            limit=limit,
            bootstrap_iters=0,
            apply_chat_template=True,
            confirm_run_unsafe_code=ours,  # `resolve` has asked; the harness's own would run here, without limits
        )
    except UserError:
        raise
    except Exception as error:  # a builder of data can fail in any way; what the user can do about it is the same
        if ours:
            raise
        raise UserError(
            f"--tasks {benchmark.name}: lm-evaluation-harness cannot run it ({type(error).__name__}: {error}); is it "
            f"one of its tasks, and can its data be reached? Ours ({', '.join(OURS)}) need --data_dir"
        ) from error
    rows = [row for name, samples in found["samples"].items() for row in _rows(name, samples)]
    if not any(row["figures"] for row in rows):
        raise UserError(f"--tasks {benchmark.name}: the task has no figure for single rows, so nothing can be paired")
    return rows


def _rows(task: str, samples: Sequence[dict[str, Any]]) -> list[Table]:
    rows: dict[int, Table] = {}
    for sample in samples:  # one for each row and filter of the answers
        doc, answers, filtered = sample["doc"], sample["resps"], sample["filter"]
        written = isinstance(answers[0][0], str)
        row = rows.setdefault(
            sample["doc_id"],
            {
                "id": f"{task}/{sample['doc_id']}/{doc.get('id', '')}",
                "figures": {},
                "chance": LUCK if written else 1 / len(answers),
                "prompt": str(doc.get("prompt") or doc.get("question") or ""),
                "response": answers[0][0] if written else "",
            },
        )
        if "refused" in sample["metrics"]:  # open requests: nothing is right or wrong
            row["chance"] = None
        for name in sample["metrics"]:
            if isinstance(sample[name], bool | int | float):
                key = name if filtered == "none" else f"{name}, {filtered}"
                row["figures"][key] = None if math.isnan(sample[name]) else float(sample[name])
    return [rows[i] for i in sorted(rows)]
