"""A training gives memory back that it holds without need."""

from __future__ import annotations

from copy import copy

import pytest

from sirl.models import resident_bytes
from sirl.training import policy_mixin
from sirl.training.policy_mixin import GivesBackMemory


def test_memory_is_given_back_after_the_first_update_and_where_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [90, 100, 120, 126, 110, 137, 138, 140]  # after each update
    left, given = iter(held), []
    monkeypatch.setattr(policy_mixin, "resident_bytes", lambda: next(left))
    monkeypatch.setattr(policy_mixin, "give_back_memory", lambda: given.append(len(held) - len(list(copy(left)))))
    callback = GivesBackMemory()
    for _ in held:
        callback.on_step_end()
    assert given == [1, 4, 7], "update 4 is a quarter above update 2, update 7 above update 5"
    callback.on_save()
    assert given == [1, 4, 7, 8]


def test_what_the_process_holds_is_told() -> None:
    before = resident_bytes()
    block = bytearray(b"x" * (64 << 20))
    assert resident_bytes() - before > 48 << 20
    del block
