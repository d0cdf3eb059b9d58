"""Every configuration that ships is parsed, and a wrong one is named in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sirl.attacks import GROUPS
from sirl.errors import UserError
from sirl.experiment.config import (
    DevelopmentSection,
    GapSection,
    bundled_configs,
    bundled_fragments,
    load_config,
    merge,
    parse_config,
    read_yaml,
)
from sirl.experiment.plan import prepare, training_options
from sirl.prompts import BUNDLED, load_prompts
from sirl.records import Prompt
from sirl.training.arguments import parse_training

MINIMAL: dict[str, Any] = {
    "name": "mine",
    "model_name_or_path": "demo",
    "train": {"dataset_name": "demo/train", "max_steps": 3},
}


def changed(**values: Any) -> dict[str, Any]:
    return {**MINIMAL, **values}


def test_root_folder_and_package_hold_the_same_configs() -> None:
    root = Path(__file__).parents[2] / "configs"
    assert {p.name for p in root.glob("*.yaml")} == {p.name for p in bundled_configs().values()}
    assert "demo" in bundled_configs()


@pytest.mark.parametrize(
    ("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp2", "FSDP"), ("zero2", "DEEPSPEED"), ("zero3", "DEEPSPEED")]
)
def test_accelerate_takes_its_configs(name: str, kind: str) -> None:
    """As `accelerate launch --config_file` reads them; an unknown key is an error there."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(Path(__file__).parents[2] / "configs" / "accelerate" / f"{name}.yaml"))
    assert str(config.distributed_type.value) == kind
    assert (config.mixed_precision, config.num_processes) == ("bf16", 8)
    if kind == "FSDP":
        assert config.fsdp_config["fsdp_version"] == 2
    if kind == "DEEPSPEED":
        assert config.deepspeed_config["zero_stage"] == int(name[-1])


@pytest.mark.parametrize("name", bundled_configs())
def test_shipped_config_is_valid_in_all_its_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tests/cli/test_cli_recipes.py` runs those that name models and data of the hub on stand-ins of both."""
    config = load_config(name)
    assert config.name == name
    sources = (config.train.dataset_name, config.attack.goals, config.gap.dataset_name, config.evals.overrefusal)
    if all(part in BUNDLED for source in sources if source for part in source.split(",")):
        if config.model_name_or_path != "demo":  # half a gigabyte to fetch
            monkeypatch.setattr("sirl.models.load_tokenizer", lambda *_, **__: None)
        prepare(config)  # reads the prompts and checks that tests and training do not overlap
    else:  # hub data sets and users' files are not there: at least every training key is known and its value taken
        parse_training([], training_options(config), name)


ABLATIONS = sorted((bundled_configs()["demo"].parent / "ablations").glob("*.yaml"))


def test_ablations_ship_and_are_no_configurations() -> None:
    assert ABLATIONS
    assert not {path.stem for path in ABLATIONS} & set(bundled_configs())
    root = Path(__file__).parents[2]
    assert {p.name for p in (root / "configs" / "ablations").iterdir()} == {p.name for p in ABLATIONS}
    assert '"configs/ablations/*.yaml"' in (root / "pyproject.toml").read_text()


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_ablation_is_the_demo_with_one_thing_changed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers the question of its first line, names keys that exist, and leaves what is measured alone."""
    monkeypatch.setattr("sirl.models.load_tokenizer", lambda *_, **__: None)
    first, *_ = path.read_text().splitlines()
    assert re.match(r"# [A-Z][^.]*\?", first)
    fragment = read_yaml(str(path))
    demo = load_config("demo")
    config = parse_config(merge(read_yaml("demo"), fragment), path.stem)
    plan = prepare(config)  # every key of `train` is known and its value taken
    prompts = plan.training.config.generation_batch_size // plan.training.config.num_generations
    assert prompts == (12 if path.stem == "pairs-off" else 6), "prompts an update"
    assert set(fragment) <= {"train", "model_name_or_path", "gap", "development"}
    assert (config.attack, config.evals, config.seed) == (demo.attack, demo.evals, demo.seed)
    assert config != demo


def test_fragments_are_read_by_name() -> None:
    for name, path in bundled_fragments().items():
        assert read_yaml(name, "--variants") == read_yaml(str(path))
    assert set(bundled_fragments().values()) == set(ABLATIONS)
    assert read_yaml("ablations/kl-0.001", "--variants") == {"train": {"beta": 0.001}}
    for name in ("ablations/kl-0.01", "ablations/kl-0.01.yaml"):
        assert read_yaml(name, "--variants") == {"train": {"beta": 0.01}}


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ablations").mkdir()
    (tmp_path / "ablations" / "kl-0.001.yaml").write_text("seed: 3")
    monkeypatch.chdir(tmp_path)
    assert read_yaml("ablations/kl-0.001.yaml", "--variants") == {"seed": 3}


@pytest.mark.parametrize("name", ["ablations/kl-0.001", "ablations/kl-0.01.yaml"])
def test_a_fragment_is_no_configuration(name: str) -> None:
    with pytest.raises(
        UserError, match=rf"^--config: {re.escape(name)} is a fragment that changes a configuration.*variants"
    ):
        load_config(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ablations/kl-0.0001", "; did you mean ablations/kl-0.001.yaml?"),
        ("reward-randon.yaml", "; did you mean ablations/reward-random.yaml?"),
        ("nowhere.yaml", "(sirl list configs)"),
    ],
)
def test_an_unknown_fragment(name: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        read_yaml(name, "--variants")
    assert str(caught.value).startswith(f"--variants: no such file: {name}; give a YAML file or a fragment")
    assert str(caught.value).endswith(hint)


@pytest.mark.parametrize("name", ["prompts-400", "prompts-all"])
def test_ablations_count_the_prompts_of_the_demo(name: str) -> None:
    first, *_ = bundled_fragments()[f"ablations/{name}.yaml"].read_text().splitlines()
    prompts = load_prompts(load_config("demo").train.dataset_name)
    assert re.search(rf"\b{len(prompts):,} (in|of) ", first)


def test_merge() -> None:
    base = {"name": "a", "train": {"beta": 1, "kwargs": {"x": 1, "y": 2}}, "list": [1, 2]}
    got = merge(base, {"train": {"kwargs": {"y": 3}, "new": None}, "list": [3], "gap": {"k": 1}})
    assert got == {
        "name": "a",
        "train": {"beta": 1, "kwargs": {"x": 1, "y": 3}, "new": None},
        "list": [3],
        "gap": {"k": 1},
    }
    got["train"]["kwargs"]["x"] = 9
    assert base["train"]["kwargs"]["x"] == 1, "the base is not changed"


def test_demo_asks_the_bundled_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sirl.models.load_tokenizer", lambda *_, **__: None)
    assert len(prepare(load_config("demo")).questions) == 100


def test_demo_names_its_attacks_one_by_one() -> None:
    """Its running time is told in the README: attacks that are added to the package must not add to it."""
    attacks = load_config("demo").attack.attacks
    assert isinstance(attacks, tuple)
    assert len(attacks) == 8
    assert not set(attacks) & set(GROUPS)


def test_demo_wraps_benign_requests_as_its_attacks_wrap_harmful_ones() -> None:
    config = load_config("demo")
    assert isinstance(config.evals.wrappings, tuple)
    assert ["direct", *config.evals.wrappings] == list(config.attack.attacks)
    assert config.evals.max_wrapped * len(config.evals.wrappings) >= 200


def test_template_file_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sirl.experiment.plan.load_prompts", lambda *_, **__: [Prompt("p", "Sneak a snack in")])
    monkeypatch.setattr("sirl.experiment.plan.check_disjoint", lambda *_, **__: None)
    monkeypatch.setattr("sirl.models.load_tokenizer", lambda *_, **__: None)
    file = tmp_path / "mine.txt"
    config = parse_config(changed(attack={"attacks": ["direct"], "template_file": str(file)}), "x.yaml")
    with pytest.raises(UserError, match=r"^attack\.template_file: no such file: .*mine\.txt"):
        prepare(config)
    file.write_text("Kindly: [PROMPT]")
    assert [attack.name for attack in prepare(config).attacks] == ["direct", "template:1"]


def test_minimal_config_has_the_defaults_of_its_sections() -> None:
    config = parse_config(MINIMAL, "x.yaml")
    assert config.run_dir == Path("runs/mine")
    assert config.train.options == {"max_steps": 3}
    assert config.attack.decoding == ("greedy", "sample")
    assert config.gap == GapSection()


def test_a_development_set_without_benign_prompts_is_for_looking_only() -> None:
    config = parse_config(changed(development={"goals": "g", "choose": False, "max_repetition": None}), "x")
    assert config.development == DevelopmentSection("g", choose=False, max_repetition=None)
    assert DevelopmentSection("g", overrefusal="b").max_repetition == 0.5


def test_as_dict_is_parsed_back_to_the_same_config() -> None:
    config = parse_config(MINIMAL, "x.yaml")
    assert parse_config(yaml.safe_load(yaml.safe_dump(_plain(config.as_dict()))), "again") == config


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    config = load_config(str(path), {"train.max_steps": 9, "seed": 4, "attack.goals": "g.txt", "output_dir": "o"})
    assert (config.train.options["max_steps"], config.seed, config.attack.goals) == (9, 4, "g.txt")
    assert config.run_dir == Path("o")


def test_numbers_that_yaml_reads_as_text() -> None:
    config = parse_config(changed(gap={"dataset_name": "d", "temperature": "5e-1"}), "x")
    assert config.gap.temperature == 0.5


def test_lists_may_be_written_as_text() -> None:
    config = parse_config(changed(attack={"attacks": ["direct", "aim"], "decoding": "greedy"}), "x")
    assert (config.attack.attacks, config.attack.decoding) == (("direct", "aim"), ("greedy",))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(atack={}), r"x\.yaml: atack is not a known key; did you mean attack\?"),
        (changed(gap={"dataset_name": "d", "kk": 3}), r"x\.yaml: gap\.kk is not a known key; did you mean k\?"),
        (changed(attack={"goal": "g"}), r"attack\.goal is not a known key; did you mean goals\?"),
        (changed(attack=["direct"]), r"attack must be a mapping of keys to values, got list"),
        (changed(seed="one"), r"seed: expected a whole number, got 'one'"),
        (changed(seed=True), r"seed: expected a whole number, got True"),
        (changed(seed=-1), r"seed: must be 0 to 4294967295, got -1"),
        (changed(seed=2**32), r"seed: must be 0 to 4294967295, got 4294967296"),
        (changed(gap={"dataset_name": "d", "k": 0}), r"gap\.k: must be 1 or more, got 0"),
        (changed(gap={"dataset_name": "d", "temperature": 0}), r"gap\.temperature: must be above 0"),
        (changed(gap={"dataset_name": "d", "temperature": "warm"}), r"temperature: expected a number, got 'warm'"),
        (changed(attack={"decoding": ["beam"]}), r"attack\.decoding: expected greedy or sample, got 'beam'"),
        (changed(attack={"decoding": ["greedy", "greedy"]}), r"attack\.decoding: .* each once"),
        (changed(attack={"max_goals": "all"}), r"max_goals: expected a whole number or null, got 'all'"),
        (changed(evals={"wrappings": 3}), r"evals\.wrappings: expected text or a list of text or null, got 3"),
        (changed(evals={"wrappings": "dan", "max_wrapped": 0}), r"evals\.max_wrapped: must be 1 or more, got 0"),
        (
            changed(evals={"wrappings": "dan", "overrefusal": None}),
            r"evals\.wrappings: wraps the prompts of evals\.over",
        ),
        (changed(development={"goals": "g"}), r"development\.overrefusal: name benign prompts, because"),
        (changed(development={"goals": "g", "choose": False, "max_repetition": 2}), r"max_repetition: a share from 0"),
        (changed(name="a/b"), r"name: 'a/b' cannot be the name of a folder"),
        (changed(name=""), r"name: '' cannot be the name of a folder"),
        ({k: v for k, v in MINIMAL.items() if k != "train"}, r"x\.yaml: train is missing"),
        (changed(train={"max_steps": 3}), r"train\.dataset_name is missing"),
    ],
)
def test_wrong_value_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_config(data, "x.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", r"not valid YAML .*line 1"),
        ("- a\n- b\n", r"must be a mapping"),
        ("", r"must be a mapping"),
        ("seed: 1\nseed: 2\n", r"key 'seed' given twice .*line 2"),
        ("1: 2\n", r"must be a mapping .*the key 1 is not text"),
        ("on: 2\n", r"must be a mapping .*the key True is not text"),
        ("# nothing\n", r"must be a mapping .*is empty"),
        ("[a, b]: 2\n", r"not valid YAML \(a key must be a text .*line 1"),
        ("gap:\n  ? {a: 1}\n  : 2\n", r"not valid YAML \(a key must be a text .*line 2"),
        ("gap:\n\tk: 2\n", r"not valid YAML .*line 2"),
        ("name: 2024-13-45\n", r"not valid YAML \(month must be in 1\.\.12"),
        ("name: !!bool maybe\n", r"not valid YAML"),
        ("name: !!int many\n", r"not valid YAML"),
        ("name: !!timestamp then\n", r"not valid YAML"),
        ("name: !!python/object:os.system x\n", r"not valid YAML .*constructor"),
        ("name: *other\n", r"not valid YAML .*alias"),
        ("train: &a {more: *a}\n", r"not valid YAML \(an anchor holds itself"),
        ("name: " + "[" * 5000, r"not valid YAML \(nested too deeply"),
        ("a: 1\n---\nb: 2\n", r"not valid YAML .*single document"),
        ("name: caf\xe9\n".encode("cp1252"), r"x\.yaml is not UTF-8 text"),
    ],
)
def test_wrong_file_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(str(path))
    assert "\n" not in str(caught.value)


def test_missing_file_lists_the_bundled_ones() -> None:
    with pytest.raises(UserError, match=r"no such file: nowhere\.yaml; .*demo"):
        load_config("nowhere.yaml")


def test_override_below_a_value() -> None:
    with pytest.raises(UserError, match=r"--set name\.x: name is not a section"):
        load_config("demo", {"name.x": 1})


def test_adaptive_attacks_have_a_budget_and_an_attacker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sirl.models.load_tokenizer", lambda *_, **__: None)
    section = {"attacks": "pair,gcg", "budget": 5, "attacker_model": "big", "attacker_engine": "http://there/v1"}
    config = parse_config(changed(attack=section), "f")
    assert (config.attack.budget, config.attack.attacker_engine) == (5, "http://there/v1")
    assert [attack.config.max_queries for attack in prepare(config).attacks] == [5, 5]  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"attack\.budget: must be 1 or more, got 0"):
        parse_config(changed(attack={"budget": 0}), "f")
    with pytest.raises(UserError, match=r"attack\.attacker_model big: none of the chosen attacks has an attacker"):
        prepare(parse_config(changed(attack={**section, "attacks": "static"}), "f"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_same_configuration_in_any_dress(tmp_path: Path, encoding: str, end: str) -> None:
    text = yaml.safe_dump({**MINIMAL, "gap": {"required": "OFF"}}).replace("'OFF'", "OFF").replace("\n", end)
    path = tmp_path / "x.yaml"
    path.write_bytes(text.encode(encoding))
    assert load_config(str(path)).gap == GapSection(required=False)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"train": None}, r"train is empty; give at least dataset_name"),
        ({"gap": None}, r"gap is empty; give a key of it, or leave it out"),
        ({"evals": None}, r"evals is empty; give a key of it"),
        ({"gap": {"required": "yes please"}}, r"gap\.required: expected true or false, got 'yes please'"),
        ({"gap": {"temperature": float("nan")}}, r"gap\.temperature: expected a number, got nan"),
        ({"gap": {"temperature": "1e999"}}, r"gap\.temperature: expected a number"),
    ],
)
def test_sections_that_say_nothing(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config(changed(**section), "x.yaml")


def test_a_key_of_a_section_that_is_empty_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, "gap": None, "development": None}))
    config = load_config(str(path), {"gap.k": 3})
    assert (config.gap.k, config.development) == (3, None)


def test_lists_for_keys_with_commas() -> None:
    several = ["a.jsonl", "org/name:config@split"]
    sections: dict[str, Any] = {
        "train": {"dataset_name": several, "retention_dataset_name": several},
        "gap": {"dataset_name": several, "benign_dataset_name": several},
        "attack": {"goals": several, "judge": ["refusal", "rubric@model"]},
        "evals": {"overrefusal": several},
    }
    config = parse_config(changed(**sections), "x.yaml")
    joined = "a.jsonl,org/name:config@split"
    assert config.train.options == {"retention_dataset_name": joined}
    assert [config.train.dataset_name, config.gap.dataset_name, config.attack.goals] == [joined] * 3
    assert [config.gap.benign_dataset_name, config.evals.overrefusal] == [joined] * 2
    assert config.attack.judge == "refusal,rubric@model"
    with pytest.raises(UserError, match=r"attack\.goals: expected text, got \['a', 3\]"):
        parse_config(changed(attack={"goals": ["a", 3]}), "x.yaml")
