"""From flags to runs: names, seeds, overlays, and what is refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from compare_helpers import write_config

from sirl.compare.grid import Job, plan_jobs
from sirl.compare.methods import METHODS
from sirl.errors import UserError


@pytest.fixture
def config(tmp_path: Path) -> str:
    return str(write_config(tmp_path, "some-model"))


def jobs_of(config: str, tmp_path: Path, **more: Any) -> dict[str, Job]:
    jobs = plan_jobs(config, folder=tmp_path / "out", **more)
    return {f"{job.name}-{job.seed}": job for job in jobs}


def overlay(tmp_path: Path, text: str, name: str = "mine.yaml") -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_one_run_for_each_method_and_seed(config: str, tmp_path: Path) -> None:
    found = plan_jobs(config, methods=list(METHODS), seeds=[0, 2], folder=tmp_path / "out")
    assert [(job.name, job.seed) for job in found] == [(name, seed) for name in METHODS for seed in (0, 2)]
    assert len({job.folder for job in found}) == len(found)
    last = found[-1]
    assert last.folder == tmp_path / "out" / "sirl-seed2"
    assert (last.config.seed, last.config.name, last.config.gap.required) == (2, "sirl-seed2", False)
    assert last.config.gap.k == 2, "the rest of the section stays"


def test_none_always_takes_part_and_seeds_are_the_configurations(config: str, tmp_path: Path) -> None:
    assert list(jobs_of(config, tmp_path, methods=["sirl"])) == ["none-0", "sirl-0"]


def test_sirl_is_the_configuration_and_published_leaves_retention_out(config: str, tmp_path: Path) -> None:
    found = jobs_of(config, tmp_path, methods=["sirl", "sirl_published"])
    ours, theirs = (dict(found[f"{name}-0"].config.train.options) for name in ("sirl", "sirl_published"))
    assert (theirs.pop("retention_weight"), theirs.pop("num_rollouts"), theirs.pop("reward")) == (0.0, None, "entropy")
    limits = ("min_reward_spread", "entropy_floor", "sameness_weight", "pair_weight")
    assert [theirs.pop(name) for name in limits] == [0.01, 0.0, 0.0, 0.0]
    ours.pop("num_rollouts")
    assert ours == theirs


def test_values_for_all_and_for_one(config: str, tmp_path: Path) -> None:
    sets = {"train.max_steps": 5, "dpo:train.learning_rate": 2e-4, "dpo:beta": 1, "best_of_n:n": 8}
    found = jobs_of(config, tmp_path, methods=["dpo", "best_of_n", "sirl"], sets=sets)
    assert {job.config.train.options["max_steps"] for job in found.values()} == {5}
    assert found["dpo-0"].config.train.options["learning_rate"] == 2e-4
    assert found["sirl-0"].config.train.options["learning_rate"] == 0.01
    assert dict(found["dpo-0"].settings) == {"beta": 1.0}
    assert dict(found["best_of_n-0"].settings) == {"n": 8}
    assert METHODS["best_of_n"].settings == {"n": 4}, "the table stays as it is"
    assert found["dpo-0"].as_dict()["compare"] == {"method": "dpo", "beta": 1.0}
    assert "compare" not in found["sirl-0"].as_dict()


def test_variants_are_merged_key_by_key(config: str, tmp_path: Path) -> None:
    file = overlay(tmp_path, "train: {reward: random, retention_dataset_name: null}\ngap: {k: 3}\n", "noise.yaml")
    job = jobs_of(config, tmp_path, variants=[file])["noise-0"]
    assert job.method is METHODS["sirl"]
    options = job.config.train.options
    assert (options["reward"], options["retention_dataset_name"], options["max_steps"]) == ("random", None, 2)
    assert (job.config.gap.k, job.config.gap.max_prompts) == (3, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attack: {max_goals: 3}", "attack is the same for all"),
        ("seed: 3", "seed is the same for all"),
        ("trian: {max_steps: 3}", r"mine\.yaml: trian is not a known key; did you mean train\?"),
        ("gap: {kk: 3}", r"mine\.yaml: gap\.kk is not a known key"),
        ("train: 3", r"mine\.yaml: train must be a mapping"),
        ("- a list", "--variants: .*must be a mapping"),
        ("train: {reward: [", "--variants: .*is not valid YAML"),
        ("train: {max_steps: 1, max_steps: 2}", "given twice"),
    ],
)
def test_wrong_overlay(config: str, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        jobs_of(config, tmp_path, variants=[overlay(tmp_path, text)])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"methods": ["sirk"]}, r"--methods: sirk is unknown; did you mean sirl\?"),
        ({"variants": ["nowhere.yaml"]}, "--variants: no such file"),
        ({"variants": ["some/sirl.yaml"]}, "the name 'sirl' is a method's"),
        ({"variants": ["some/.yaml"]}, "cannot be a folder's"),
        ({"methods": ["sirl"], "sets": {"dpo:beta": 1}}, "--set dpo:...: dpo is not in this comparison"),
        ({"methods": ["dpo"], "sets": {"dpo:betta": 1}}, r"no setting of dpo; did you mean beta\?"),
        ({"methods": ["dpo"], "sets": {"dpo:beta": 0}}, "--set dpo:beta: expected a number above 0, got 0"),
        ({"methods": ["best_of_n"], "sets": {"best_of_n:n": 2.5}}, "expected a whole number from 1 up"),
        ({"methods": ["best_of_n"], "sets": {"best_of_n:n": True}}, "expected a whole number from 1 up"),
        ({"methods": ["system_prompt"], "sets": {"system_prompt:text": ""}}, "expected text"),
        ({"methods": ["dpo"], "sets": {"dpo:attack.judge": "x"}}, "--set dpo:attack...: attack is the same for all"),
        ({"sets": {"name.first": "x"}}, "--set name.first: name is not a section"),
    ],
)
def test_wrong_flags(config: str, tmp_path: Path, more: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        jobs_of(config, tmp_path, **more)


def test_a_file_given_twice(config: str, tmp_path: Path) -> None:
    file = overlay(tmp_path, "train: {reward: random}")
    with pytest.raises(UserError, match="given twice"):
        jobs_of(config, tmp_path, variants=[file, file])


def test_bundled_fragments_keep_the_dots_of_their_names(config: str, tmp_path: Path) -> None:
    found = jobs_of(config, tmp_path, variants=["ablations/kl-0.001", "ablations/kl-0.01"], methods=["none"])
    betas = {name: job.config.train.options.get("beta") for name, job in found.items()}
    assert betas == {"none-0": None, "kl-0.001-0": 0.001, "kl-0.01-0": 0.01}
