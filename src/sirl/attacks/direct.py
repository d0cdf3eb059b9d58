"""No attack at all: the goal as it is. The line that every attack is compared with."""

from __future__ import annotations

from sirl.attacks.base import PLACEHOLDER, TemplateAttack


class Direct(TemplateAttack):
    """The goal, word for word, as the only user turn.

    Source: the "direct request" baseline of HarmBench (Mazeika et al. 2024, arXiv 2402.04249).
    """

    name = "direct"
    source = "baseline; 'direct request' in Mazeika et al. 2024 (HarmBench), arXiv 2402.04249"
    description = "the goal itself, without any wrapper"
    template = PLACEHOLDER
