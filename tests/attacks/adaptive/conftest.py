"""Puts this folder on the path: its tests import the scripted models beside them."""

from __future__ import annotations

from typing import Any

import pytest

from sirl.attacks.adaptive.verdicts import Seen


@pytest.fixture
def never_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models have never learnt to refuse: no answer of theirs shall end a search."""

    def no(looks: Any, _: Any) -> list[list[Seen]]:
        return [[Seen() for _ in look.completions] for look in looks]

    monkeypatch.setattr("sirl.attacks.adaptive.base.look_at", no)
