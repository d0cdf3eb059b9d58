"""How rows are ordered, grouped, padded and compared."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest
import torch
from datasets import Dataset

from sirl.errors import UserError
from sirl.training.batching import (
    EpochSampler,
    as_chats,
    group_runs,
    level_flat_groups,
    level_rare_groups,
    upper_share,
    widest_spread,
)

NAN = float("nan")


# -- data set ----------------------------------------------------------------------------------------------------------


def test_as_chats_keeps_prompts_and_nothing_else() -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "b"}]
    texts = as_chats(Dataset.from_dict({"prompt": ["a", "b"], "label": ["safe", "unsafe"], "is_safe": [True, False]}))
    assert texts.column_names == ["prompt"]
    assert texts["prompt"][0] == [{"role": "user", "content": "a"}]
    assert as_chats(Dataset.from_dict({"prompt": [chat]}))["prompt"][0] == chat
    other = as_chats(Dataset.from_dict({"q": ["a"], "prompt": ["no"]}), column="q")
    assert other["prompt"][0] == [{"role": "user", "content": "a"}]


def test_as_chats_without_prompts() -> None:
    with pytest.raises(UserError, match="no column `prompt`; it has question, label"):
        as_chats(Dataset.from_dict({"question": ["a"], "label": [0]}))


# -- groups ------------------------------------------------------------------------------------------------------------


def test_group_runs_of_whole_groups() -> None:
    chats = [[1]] * 3 + [[2]] * 3
    assert group_runs(chats, first_row=0, group=3) == {(3, 0): [0, 3]}
    assert group_runs(chats, first_row=6, group=3) == {(3, 0): [0, 3]}
    assert group_runs([[1]] * 6, first_row=0, group=3) == {(3, 0): [0, 3]}, "two groups of one prompt stay two"


def test_group_runs_of_a_group_shared_by_processes() -> None:
    # groups of 4: a a a a b b b b c c c c, dealt as 6 + 6
    assert group_runs([[1]] * 4 + [[2]] * 2, first_row=0, group=4) == {(4, 0): [0], (2, 0): [4]}
    assert group_runs([[2]] * 2 + [[3]] * 4, first_row=6, group=4) == {(2, 2): [0], (4, 0): [2]}
    # a process with less than a group
    assert group_runs([[1]], first_row=2, group=4) == {(1, 2): [0]}
    assert group_runs([], 0, 4) == {}


@pytest.mark.parametrize("seed", range(20))
def test_widest_spread_is_the_best_of_all_subsets(seed: int) -> None:
    draw = random.Random(seed)
    rewards = [draw.choice([draw.gauss(0, 1), round(draw.gauss(0, 1))]) for _ in range(draw.randint(2, 8))]
    n = draw.randint(1, len(rewards))
    chosen = widest_spread(rewards, n)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == n
    best = max(statistics.pvariance(subset) for subset in itertools.combinations(rewards, n))
    assert statistics.pvariance([rewards[i] for i in chosen]) == pytest.approx(best)


def test_widest_spread_takes_unscored_responses_last() -> None:
    assert widest_spread([None, 1.0, None, 3.0, 2.0], 2) == [1, 3]
    assert widest_spread([None, 1.0, None, 3.0], 3) == [0, 1, 3]
    assert widest_spread([None, None], 2) == [0, 1]


@pytest.mark.parametrize("seed", range(20))
def test_group_runs_cover_every_row_once(seed: int) -> None:
    draw = random.Random(seed)
    group, processes, rows = draw.randint(2, 6), draw.randint(1, 4), draw.randint(1, 17)
    covered = set()
    for process in range(processes):
        for (n, first), starts in group_runs([[0]] * rows, process * rows, group).items():
            for start in starts:
                for j in range(n):
                    row = process * rows + start + j
                    assert (row % group) == first + j, "the sample's index within its group"
                    covered.add(row)
    assert covered == set(range(processes * rows))


def test_level_flat_groups() -> None:
    rewards = torch.tensor([-1.0, -1.005, -1.0, -2.0, NAN, -1.0, -1.006, NAN, NAN, NAN])[:, None]
    # groups of 2: spread 0.005 (flat), 1.0 (kept), one known (flat by itself), one known, none known
    got = level_flat_groups(rewards, 2, 0.01).squeeze(1)
    expected = torch.tensor([-1.0025, -1.0025, -1.0, -2.0, NAN, -1.0, -1.006, NAN, NAN, NAN])
    torch.testing.assert_close(got, expected, equal_nan=True)


def test_level_flat_groups_with_an_unscored_row() -> None:
    rewards = torch.tensor([[-1.0], [NAN], [-1.008], [-1.0], [NAN], [-3.0]])
    got = level_flat_groups(rewards, 3, 0.01)
    # the mean of the two that are known: -1.004; the other group's spread is 2
    expected = torch.tensor([[-1.004], [NAN], [-1.004], [-1.0], [NAN], [-3.0]])
    torch.testing.assert_close(got, expected, equal_nan=True)


def test_the_share_of_certain_responses() -> None:
    assert upper_share([-0.1, -0.2, -2.0, -1.9]) == 0.5
    assert upper_share([-0.1, -2.0, -2.1, -1.9, None]) == 0.25, "one refusal among four answers"
    assert upper_share([-0.5, -0.5]) == 1.0
    assert upper_share([None, None]) == 0.0


def test_groups_in_which_the_certain_responses_are_rare_teach_nothing() -> None:
    rewards = torch.tensor([-0.1, -2.0, -0.1, -2.0, -0.1, NAN])[:, None]
    got = level_rare_groups(rewards, 2, [0.25, 0.25, 0.75, 0.75, 0.0, 0.5], 0.5).squeeze(1)
    torch.testing.assert_close(got, torch.tensor([-1.05, -1.05, -0.1, -2.0, -0.1, NAN]), equal_nan=True)
    assert torch.equal(level_rare_groups(rewards[:4], 2, [0.0] * 4, 0.0), rewards[:4])


def test_level_flat_groups_can_be_turned_off() -> None:
    rewards = torch.rand(8, 2)
    assert torch.equal(level_flat_groups(rewards, 4, 0.0), rewards)
    equal = torch.full((4, 1), -0.3)
    torch.testing.assert_close(level_flat_groups(equal, 4, 0.01), equal)


def test_level_flat_groups_takes_each_reward_for_itself() -> None:
    rewards = torch.tensor([[1.0, 5.0], [1.001, 6.0]])
    torch.testing.assert_close(level_flat_groups(rewards, 2, 0.01), torch.tensor([[1.0005, 5.0], [1.0005, 6.0]]))


# -- order -------------------------------------------------------------------------------------------------------------


def sampler(shuffle: bool = True, seed: int = 5) -> EpochSampler:
    return EpochSampler(range(7), mini_repeat_count=2, batch_size=3, repeat_count=2, shuffle=shuffle, seed=seed)


def test_epoch_sampler_repeats_prompts_and_batches() -> None:
    order = list(sampler())
    assert len(order) == len(sampler()) == 2 * 2 * 3 * 2  # whole batches alone: the seventh prompt waits
    for batch in (order[:12], order[12:]):
        assert batch[:6] == batch[6:]  # two passes over the batch
        assert batch[0:6:2] == batch[1:6:2]  # each prompt twice in a row
        assert len(set(batch)) == 3
    assert not set(order[:12]) & set(order[12:])


def test_epoch_sampler_order_hangs_on_the_epoch_alone() -> None:
    epochs = []
    first = sampler()
    for epoch in range(3):
        first.set_epoch(epoch)
        epochs.append(list(first))
    assert epochs[0] != epochs[1] != epochs[2]
    resumed = sampler()
    resumed.set_epoch(2)
    assert list(resumed) == epochs[2]
    assert list(resumed) == epochs[2], "however often it was iterated"
    other = sampler(seed=6)
    assert list(other) != epochs[0]


def test_epoch_sampler_without_shuffling() -> None:
    plain = sampler(shuffle=False)
    plain.set_epoch(3)
    assert list(plain)[:6] == [0, 0, 1, 1, 2, 2]
