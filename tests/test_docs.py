"""What the documentation shows must work: flags exist, YAML is parsed, Python compiles, links lead somewhere."""

from __future__ import annotations

import argparse
import ast
import importlib
import random
import re
import runpy
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import sirl
from sirl.attacks import ATTACKS, load_attack, resolve_attacks
from sirl.attacks.base import StaticAttack
from sirl.cli.main import COMMANDS
from sirl.experiment.config import RunConfig, parse_config
from sirl.judges import JudgeItem, load_judge
from sirl.training.arguments import parse_training

ROOT = Path(__file__).parent.parent
PAGES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if path.is_file()]
LOG = ROOT / "dev" / "LOG.md"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """(command, words after it) of every `sirl ...` line of the page's code blocks."""
    found = []
    for text in re.findall(r"```(?:sh|bash|console)?\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in text.replace("\\\n", " ").splitlines():
            match = re.match(r"(?:\$ )?sirl (\w+)(.*)", line.strip())
            if match:
                found.append((match[1], match[2].split("#")[0].split()))
    return found


@lru_cache
def flags(command: str) -> frozenset[str]:
    module = importlib.import_module(f"sirl.cli.{command}")
    if command == "train":
        from sirl.training.arguments import TrainingParser

        parser: argparse.ArgumentParser = TrainingParser()
        module._add_own(parser)
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("--json")
        module.add_arguments(parser)
    return frozenset(flag for action in parser._actions for flag in action.option_strings)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
class TestPage:
    def test_commands_and_flags_exist(self, page: Path) -> None:
        for command, words in commands(page):
            assert command in COMMANDS, command
            for word in words:
                if word.startswith("--"):
                    assert word.split("=")[0] in flags(command), f"sirl {command} {word}"

    def test_python_compiles(self, page: Path) -> None:
        for text in blocks(page, "python"):
            compile(text, page.name, "exec")

    def test_yaml_of_runs_is_parsed(self, page: Path) -> None:
        for text in blocks(page, "yaml"):
            data = yaml.safe_load(text)
            if "train" in data:
                assert isinstance(parse_config(data, page.name), RunConfig)
                parse_training(["--model_name_or_path", "demo", "--output_dir", "out"], data["train"], page.name)

    def test_links_lead_somewhere(self, page: Path) -> None:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), target

    def test_links_into_a_page_lead_to_a_place_of_it(self, page: Path) -> None:
        for target, place in re.findall(r"\]\(([^)#\s]*\.md)?#([^)\s]+)\)", page.read_text(encoding="utf-8")):
            assert place in places(page.parent / target if target else page), f"{target}#{place}"


def places(page: Path) -> set[str]:
    """What a link may name of a page: its headings, as GitHub makes anchors of them, and its own anchors."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


def test_the_log_has_a_row_for_every_entry_newest_first() -> None:
    text = LOG.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+) \| \[[^\]]+\]\(#([^)]+)\) \| .+ \| (\w+) \| [0-9a-f]{7} \|$", text, re.MULTILINE)
    entries = re.findall(r'^<a id="([^"]+)"></a>\n\n## (\S+):', text, re.MULTILINE)
    assert [(place, day) for day, place, _ in rows] == entries
    assert len(entries) == len(re.findall(r"^## ", text, re.MULTILINE)) > 40
    assert {outcome for _, _, outcome in rows} == {"adopted", "negative", "superseded"}
    days = [day.partition("/")[0] for _, day in entries]
    assert days == sorted(days, reverse=True)


def test_every_command_has_a_page() -> None:
    documented = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert set(COMMANDS) - {"demo"} <= documented  # demo is told with run


def test_attacks_page_lists_the_static_attacks_and_no_other() -> None:
    """In its tables, once each. The map to the paper's methods further down names adaptive ones as well."""
    page = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    tables, _, rest = page.partition("## Where the goal is in the prompt")
    listed = re.findall(r"^\| `(\w+)` \|", tables, re.MULTILINE)
    loaded = {name: load_attack(name) for name in ATTACKS}
    assert sorted(listed) == sorted(name for name, attack in loaded.items() if attack.kind == "static")
    assert listed[0] == "direct"
    for name in listed:
        numbers = set(re.findall(r"\d{4}\.\d{5}", loaded[name].source))
        row = next(line for line in tables.split("\n") if line.startswith(f"| `{name}` |"))
        assert set(re.findall(r"abs/(\d{4}\.\d{5})", row)) == numbers, name
    where = rest.partition("## What to keep in mind")[0]
    for kind in ("exact", "lossy"):
        row = next(line for line in where.split("\n") if line.startswith(f"| {kind} |"))
        named = set(re.findall(r"`(\w+)`", row))
        encoded = {
            name for name in listed if (said := loaded[name].goal_encoding) and ("lossy" in said) is (kind == "lossy")
        }
        assert named == encoded, kind


def test_attacks_page_maps_all_twenty_methods_of_the_paper() -> None:
    page = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| ([^|`]+) \| (`[^|]+) \| [^|]+ \|$", page.partition("## The twenty methods")[2], re.MULTILINE
    )
    assert len({there for there, _ in rows}) == 20
    adaptive = "gcg random_search autodan pair tap template_mutation prefill_search".split()
    for there, here in rows:
        assert set(re.findall(r"`(\w+)`", here)) <= {*ATTACKS, *adaptive}, there


def test_the_demo_takes_as_long_everywhere() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", ROOT / "docs" / "run.md")]
    texts.append(importlib.import_module("sirl.cli.demo").__doc__ or "")
    said = [re.findall(r"(\w+ to \w+) minutes on two (?:CPU )?cores", text) for text in texts]
    assert said[0]
    assert said[0][:1] == said[1] == said[2]


def test_furniture_is_valid_yaml_and_says_the_version() -> None:
    for path in [*(ROOT / ".github").rglob("*.yml"), ROOT / "CITATION.cff"]:
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == sirl.__version__
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"].popitem()[1][
        "steps"
    ]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]


def test_the_package_has_all_its_data() -> None:
    """Each file of src/ that is no code matches a pattern of package-data, so that a wheel has it."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = data["tool"]["setuptools"]["package-data"]["sirl"]
    home = ROOT / "src" / "sirl"
    listed = {path for pattern in patterns for path in home.glob(pattern)}
    assert all(list(home.glob(pattern)) for pattern in patterns)
    files = {path for path in home.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert files - listed == set()


def test_every_page_is_on_the_site() -> None:
    """`make docs` has each page once; that its links and anchors lead somewhere, MkDocs checks there."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = re.findall(r"'([\w-]+\.md)'", str(site["nav"]))
    assert sorted(pages) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_what_people_add_works_as_shown(tmp_path: Path, model_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack, the judge and the reward of howto-extend.md."""
    attack, judge, reward, script = blocks(ROOT / "docs" / "howto-extend.md", "python")
    (tmp_path / "my_attacks.py").write_text(attack)
    (tmp_path / "my_judges.py").write_text(judge)
    monkeypatch.syspath_prepend(str(tmp_path))
    (made,) = resolve_attacks("my_attacks:Polite")
    assert isinstance(made, StaticAttack)
    assert made.render("bake a loaf", random.Random(0))[0]["content"].endswith("bake a loaf")
    items = [JudgeItem("", "Sorry, no."), JudgeItem("", "Gladly.")]
    labels = [found.label for found in load_judge("my_judges:Apologies").judge(items)]
    assert labels == ["full_refusal", "full_compliance"]
    (tmp_path / "my_reward.py").write_text(reward)
    (tmp_path / "train_mine.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train_mine.py", str(model_folder("llama")), "1"])
    made_by = runpy.run_path("train_mine.py")["trainer"]
    (logged,) = [row for row in made_by.state.log_history if "reward" in row]
    assert -10 < logged["rewards/calm_and_short/mean"] < 0
    assert made_by.state.global_step == 1


def test_a_base_model_is_tried_where_the_docs_say() -> None:
    text = (ROOT / "docs" / "howto-extend.md").read_text(encoding="utf-8")
    for place, names in re.findall(r"^\| `([\w/]+\.py)`, (.+?) \|", text, re.MULTILINE):
        source = (ROOT / "src" / "sirl" / place).read_text(encoding="utf-8")
        assert all(name in source for name in re.findall(r"`(\w+)`", names)), place


TICS = {
    "next to, separately, against": r"\bbeside\b",
    "continue, resume": r"\b(?:go|goes|going|gone) on\b",
    "again": r"\banew\b",
    "instead of": r"\bin place of\b",
    "depends on": r"\bhangs? on\b",
    "at most N, this many": r"\b(?:so|that) many\b",
    "if": r"\bwhere there (?:is|are)\b",
    "benign": r"\bharmless\b",
    "base model": r"\bstarting model\b",
    "except": r"\bbut for\b",
    "per": r"\b(?:calls|nats|queries|tokens|FLOPs) a (?:goal|token|second|prompt)\b",
    "otherwise": r"\bor else\b",
    "run on, ask": r"\bput to\b",
    "compare with": r"\bheld against\b",
    "someone, another": r"\bsomebody\b",
    "minus": r"\bless (?:that|z) of\b",
    "from then on": r"\bfrom there on\b",
    "is described": r"\bis (?:told|said) (?:there|in)\b",
}
"""What to write, and the turn of phrase to write it for."""


def prose_of_users() -> dict[str, str]:
    """What users read: pages, the help and errors of commands, report, card, comparison and view."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in PAGES}
    home = ROOT / "src" / "sirl"
    for room in ("cli", "report", "compare", "view"):
        texts |= {str(path.relative_to(home)): path.read_text(encoding="utf-8") for path in home.glob(f"{room}/*.j2")}
        for path in home.glob(f"{room}/*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
            constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in bare)
            said = [node.value for node in constants if isinstance(node.value, str)]
            if room == "cli":
                said.append(ast.get_docstring(tree) or "")  # shown by --help
            texts[str(path.relative_to(home))] = "\n".join(said)
    return texts


def test_prose_has_none_of_our_tics() -> None:
    prompt_of_a_method = "If it is harmless, answer it fully"
    for place, text in prose_of_users().items():
        for better, tic in TICS.items():
            found = re.search(tic, text.replace(prompt_of_a_method, ""), re.IGNORECASE)
            assert not found, f"{place}: {found and found[0]!r}; write: {better}"
