"""Pure pieces of the trainer: how rows are ordered, grouped, padded and compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import pvariance
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl.trainer.utils import RepeatSampler

from sirl.errors import UserError
from sirl.records import user_turn


def as_chats(dataset: Dataset, column: str = "prompt") -> Dataset:
    """A data set of nothing but conversations in `prompt`: every other column, labels included, is dropped unread."""
    if not isinstance(dataset, Dataset):
        raise UserError(f"train_dataset, eval_dataset: give a datasets.Dataset, not {type(dataset).__name__}")
    if column not in dataset.column_names:
        raise UserError(f"train_dataset: no column `{column}`; it has {', '.join(dataset.column_names) or 'none'}")
    prompts = dataset.select_columns([column])[column]
    chats = [list(user_turn(p) if isinstance(p, str) else p) for p in prompts]
    return Dataset.from_dict({"prompt": chats})


def eval_chats(dataset: Any) -> Any:
    """As `as_chats`, for what `eval_dataset` may be: one data set, several by name, the name of one, or none."""
    if isinstance(dataset, dict):
        return {name: as_chats(one) for name, one in dataset.items()}
    return dataset if dataset is None or isinstance(dataset, str) else as_chats(dataset)


def group_runs(chats: Sequence[Sequence[int]], first_row: int, group: int) -> dict[tuple[int, int], list[int]]:
    """Where each prompt's repeats start among this process's rows, by (repeats, index of the first within its group).

    A batch holds each prompt `group` times in a row, and is dealt to processes in order, so the first and last prompt
    of a process may have fewer rows than the group, the first one starting in the middle of it.
    """
    runs: dict[tuple[int, int], list[int]] = defaultdict(list)
    start = 0
    while start < len(chats):
        offset = (first_row + start) % group
        end = min(start + group - offset, len(chats))
        runs[(end - start, offset)].append(start)
        start = end
    return dict(runs)


def level_flat_groups(rewards: Tensor, group: int, least_spread: float) -> Tensor:
    """Rewards `(N, F)` with groups that differ by less than `least_spread` set to their mean, so to advantage 0.

    TRL divides by the group's standard deviation plus 1e-4: of a group that agrees to within rounding it would make
    advantages as large as of one that holds a refusal and an answer. NaN (unscorable) stays NaN.
    """
    if rewards.shape[0] % group:
        return rewards
    grouped = rewards.view(-1, group, rewards.shape[-1])  # (P, G, F)
    known = ~grouped.isnan()
    largest = grouped.masked_fill(~known, -torch.inf).amax(1, keepdim=True)
    smallest = grouped.masked_fill(~known, torch.inf).amin(1, keepdim=True)
    return _levelled(grouped, largest - smallest < least_spread).view_as(rewards)


def _levelled(grouped: Tensor, which: Tensor) -> Tensor:
    """Rewards `(P, G, F)` with the groups of `which` `(P, 1, F)` set to their mean; NaN stays NaN."""
    return torch.where(which & ~grouped.isnan(), grouped.nanmean(1, keepdim=True), grouped)


def upper_share(rewards: Sequence[float | None]) -> float:
    """Share of the rewards that lie nearer to the largest than to the smallest; those that are None do not count."""
    known = [r for r in rewards if r is not None]
    if not known:
        return 0.0
    middle = (max(known) + min(known)) / 2
    return sum(r >= middle for r in known) / len(known)


def level_rare_groups(rewards: Tensor, group: int, shares: Sequence[float], least: float) -> Tensor:
    """Rewards `(N, F)` with groups set to their mean, so to advantage 0, whose mean of `shares` (N) is below `least`.

    With `upper_share` of the entropy reward, a group is left where its certain responses are the usual ones. To reward
    the certain ones where they are rare would teach to refuse what the model mostly answers. NaN stays NaN.
    """
    if rewards.shape[0] % group:
        return rewards
    grouped = rewards.view(-1, group, rewards.shape[-1])  # (P, G, F)
    rare = rewards.new_tensor(shares).view(-1, group).mean(1)[:, None, None] < least
    return _levelled(grouped, rare).view_as(rewards)


def widest_spread(rewards: Sequence[float | None], n: int) -> list[int]:
    """The `n` of some rewards with the largest variance, in their order: the highest few and the lowest few.

    Rewards that are None come last. Max-variance down-sampling (PODS, Xu et al., arXiv 2504.13818): an update on half
    of the responses costs about half, and those in the middle of their group teach the least.
    """
    scored = sorted((r, i) for i, r in enumerate(rewards) if r is not None)
    if len(scored) <= n:
        missing = [i for i, r in enumerate(rewards) if r is None]
        return sorted([*(i for _, i in scored), *missing[: n - len(scored)]])
    ends = [scored[:low] + scored[len(scored) - n + low :] for low in range(n + 1)]
    widest = max(ends, key=lambda chosen: pvariance([r for r, _ in chosen]))
    return sorted(i for _, i in widest)


class EpochSampler(RepeatSampler):  # type: ignore[misc]
    """TRL's `RepeatSampler`, with an order that hangs on the epoch and not on how often it was iterated.

    A run resumed in epoch 2 would else begin with the order of epoch 1.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed((self.seed or 0) * 1_000_003 + self.epoch)
        yield from super().__iter__()
