"""Names, groups and dotted paths."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from sirl.attacks import ATTACKS, load_attack, resolve_attacks
from sirl.attacks.adaptive.base import AdaptiveAttack
from sirl.attacks.base import AttackOptions
from sirl.attacks.templates import load_templates
from sirl.errors import UserError
from sirl.experiment.config import bundled_configs, load_config

FIRST_EIGHT = ["direct", "aim", "dan", "dev_mode", "refusal_suppression", "prefix_injection", "base64", "past_tense"]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "plugin_attacks.py").write_text(
        textwrap.dedent("""
        from sirl.attacks.base import StaticAttack, TemplateAttack

        class Mine(TemplateAttack):
            name = "mine"; source = "me"; description = "polite"
            template = "Kindly: [PROMPT]"

        class FalseDirect(Mine):
            name = "direct"

        class Unfinished(StaticAttack):
            name = "unfinished"

        NOT_A_CLASS = 3
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "plugin_attacks"
    sys.modules.pop("plugin_attacks", None)


def test_groups() -> None:
    assert [attack.name for attack in resolve_attacks("static")][: len(FIRST_EIGHT)] == FIRST_EIGHT
    assert [attack.name for attack in resolve_attacks("all")] == list(ATTACKS)


def test_names_keep_their_order_and_come_once() -> None:
    names = [attack.name for attack in resolve_attacks(" dan, direct ,dan,")]
    assert names == ["dan", "direct"]
    assert [attack.name for attack in resolve_attacks(["base64", "aim"])] == ["base64", "aim"]
    assert sorted(attack.name for attack in resolve_attacks("dan,all")) == sorted(ATTACKS)


def test_dotted_path(plugin: str) -> None:
    assert [attack.name for attack in resolve_attacks(f"direct,{plugin}:Mine")] == ["direct", "mine"]


def test_own_templates_come_last_or_where_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Kindly: [PROMPT]")
    mine = load_templates(str(tmp_path / "mine.txt"))
    for spec, names in (
        ("direct,aim", ["direct", "aim", "template:1"]),
        ("templates", ["template:1"]),
        ("templates,direct", ["template:1", "direct"]),
    ):
        assert [attack.name for attack in resolve_attacks(spec, mine)] == names
    with pytest.raises(UserError, match="both named 'template:1'"):
        resolve_attacks("direct", [*mine, *load_templates(str(tmp_path / "mine.txt"))])
    with pytest.raises(UserError, match="'templates' means the attacks of a template file; none was given"):
        resolve_attacks("direct,templates")


def test_unknown_attack_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown attack 'dann'.*direct, aim, dan"):
        resolve_attacks("direct,dann")


@pytest.mark.parametrize("spec", ["", " , ", []])
def test_nothing_named(spec: str | list[str]) -> None:
    with pytest.raises(UserError, match="none named"):
        resolve_attacks(spec)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module_here:Attack", "cannot be imported"),
        ("sirl.attacks.direct:Nothing", "cannot be imported"),
        ("{plugin}:NOT_A_CLASS", "not a subclass"),
        ("{plugin}:Unfinished", "cannot be made without arguments"),
        (":Attack", "unknown attack"),
        ("sirl.attacks.direct:", "unknown attack"),
    ],
)
def test_bad_paths_are_one_line(plugin: str, path: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_attack(path.format(plugin=plugin))
    assert "\n" not in str(caught.value)


def test_two_attacks_of_one_name_are_refused(plugin: str) -> None:
    with pytest.raises(UserError, match="both named 'direct'"):
        resolve_attacks(f"direct,{plugin}:FalseDirect")


ADAPTIVE = [
    "random_search",
    "gcg",
    "best_of_n",
    "prefill_search",
    "pair",
    "tap",
    "template_mutation",
    "crescendo",
    "autodan",
]


def test_adaptive_group_and_what_the_others_hold() -> None:
    assert [attack.name for attack in resolve_attacks("adaptive")] == ADAPTIVE
    assert not {attack.name for attack in resolve_attacks("static")} & set(ADAPTIVE)


def test_empty_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ADAPTIVE:
        monkeypatch.delitem(ATTACKS, name)
    with pytest.raises(UserError, match="no adaptive attack yet"):
        resolve_attacks("adaptive")


def test_bundled_configurations_run_static_attacks_only() -> None:
    for path in bundled_configs().values():
        assert {attack.kind for attack in resolve_attacks(load_config(str(path)).attack.attacks)} == {"static"}


def test_options_reach_the_attacks_that_take_them() -> None:
    direct, gcg, replay = resolve_attacks("direct,gcg,gcg@before", options=AttackOptions(budget=5, seconds=1.5))
    assert isinstance(gcg, AdaptiveAttack)
    assert (gcg.config.max_queries, gcg.config.max_seconds) == (5, 1.5)
    assert gcg.configure(AttackOptions()).config == gcg.config
    assert (direct.name, replay.name) == ("direct", "gcg@before")
    with pytest.raises(UserError, match="--attack_budget: must be 1 or more"):
        AttackOptions(budget=0)
    with pytest.raises(UserError, match="--attack_seconds: must be above 0, got nan"):
        AttackOptions(seconds=float("nan"))


@pytest.mark.parametrize("name", ["direct@before", "gcg@before@before", "nothing@before"])
def test_only_searches_can_be_replayed(name: str) -> None:
    with pytest.raises(UserError):
        load_attack(name)
