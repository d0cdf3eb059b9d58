"""Run folders: when they are begun, gone on with, refused or cleared, and what their manifest holds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sirl import manifest as module
from sirl import provenance
from sirl.errors import UserError
from sirl.manifest import Manifest, check_writable, config_hash, output_file

CONFIG = {"name": "x", "seed": 1, "train": {"max_steps": 3}, "output_dir": "a"}


def begin(folder: Path, config: dict[str, Any] = CONFIG, overwrite: bool = False) -> Manifest:
    return Manifest.open(folder, config=config, seed=1, command=["sirl", "run"], overwrite=overwrite)


def on_disk(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def test_new_run_records_what_made_it(tmp_path: Path) -> None:
    begin(tmp_path / "deep" / "run")
    data = on_disk(tmp_path / "deep" / "run")
    assert data["config"] == CONFIG
    assert (data["seed"], data["status"], data["command"]) == (1, "running", ["sirl", "run"])
    assert {"python", "torch", "transformers", "trl", "peft"} <= set(data["versions"])
    assert data["machine"]["cpus"] >= 1
    assert "git_commit" in data


def test_stages_are_kept_with_their_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.5, 100.0, 101.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    first = begin(tmp_path)
    with pytest.raises(KeyboardInterrupt), first.stage("gap"):
        raise KeyboardInterrupt
    assert on_disk(tmp_path)["stages"]["gap"]["status"] == on_disk(tmp_path)["status"] == "interrupted"
    again = begin(tmp_path)
    assert not again.done("gap")
    with again.stage("gap"):
        assert on_disk(tmp_path)["stages"]["gap"]["status"] == "running"
    entry = on_disk(tmp_path)["stages"]["gap"]
    assert (entry["status"], entry["seconds"]) == ("done", 3.5)  # 2.5 before the interruption, 1 after
    assert begin(tmp_path).done("gap")


def test_same_config_goes_on_wherever_it_is_written(tmp_path: Path) -> None:
    begin(tmp_path)
    assert len(begin(tmp_path, {**CONFIG, "output_dir": "elsewhere"}).data["resumed"]) == 1


def test_other_config_is_refused_and_the_keys_named(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(UserError, match=r"unfinished run of another configuration \(train\.max_steps differ\)"):
        begin(tmp_path, {**CONFIG, "train": {"max_steps": 4}})


def test_finished_run_is_refused_unless_overwritten(tmp_path: Path) -> None:
    begin(tmp_path).finish()
    (tmp_path / "attempts.jsonl").touch()
    (tmp_path / "base").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds a finished run; .*--overwrite"):
        begin(tmp_path)
    assert begin(tmp_path, overwrite=True).stages == {}
    assert {p.name for p in tmp_path.iterdir()} == {"manifest.json", "notes.txt"}  # not ours: not touched


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_of_something_else_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "base").mkdir()
    with pytest.raises(UserError, match="is not a run folder"):
        begin(tmp_path, overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["base"]


def join(folder: Path, stage: str, **settings: Any) -> Manifest:
    return Manifest.open_stage(folder, stage, settings, seed=0, command=["sirl"])


def test_stages_of_single_commands_share_a_folder(tmp_path: Path) -> None:
    for stage, model in (("attack_before", "a"), ("attack_after", "b")):
        manifest = join(tmp_path, stage, model=model)
        with manifest.stage(stage):
            manifest.finish()
    data = on_disk(tmp_path)
    assert data["config"] == {"attack_before": {"model": "a"}, "attack_after": {"model": "b"}}
    assert [s["status"] for s in data["stages"].values()] == ["done", "done"]
    with pytest.raises(UserError, match="holds a finished attack_before"):
        join(tmp_path, "attack_before", model="a")


def test_unfinished_stage_goes_on_with_the_same_settings_only(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), join(tmp_path, "attack_before", model="a").stage("attack_before"):
        raise KeyboardInterrupt
    with pytest.raises(UserError, match=r"unfinished attack_before with other settings \(model differ\)"):
        join(tmp_path, "attack_before", model="b")
    assert len(join(tmp_path, "attack_before", model="a").data["resumed"]) == 1


def test_broken_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="not a run manifest"):
        begin(tmp_path)


def test_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--output_dir: cannot write to"):
        check_writable(tmp_path / "file" / "run")


def test_checking_leaves_no_trace(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:  # root, under whom CI may run, is refused nothing
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "try_writing", refuse)
    with pytest.raises(UserError, match=r"--output_dir: cannot write to .* \(Permission denied\)"):
        check_writable(tmp_path)


def test_config_hash_ignores_order_and_output_folder() -> None:
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1, "output_dir": "x"})
    assert config_hash({"a": 1}) != config_hash({"a": 2})


def test_secrets_stay_out_of_the_command(tmp_path: Path) -> None:
    words = ["sirl", "train", "--hub_token", "s3cret", "--api_key=s3cret", "--max_new_tokens", "5"]
    Manifest.open(tmp_path, config={}, seed=0, command=words)
    assert on_disk(tmp_path)["command"] == [
        "sirl", "train", "--hub_token", "***", "--api_key=***", "--max_new_tokens", "5",
    ]  # fmt: skip


def test_the_commit_of_sirl_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of the folder where the user works, nor of a repository that its environment lies in."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "sirl").mkdir()
    own = tmp_path / "sirl" / "provenance.py"
    own.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(own))
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    assert provenance.sirl_commit() is None, "in a repository that does not hold it"
    subprocess.run([*git, "add", "sirl"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
    assert provenance.sirl_commit() == provenance.git_commit(tmp_path)


def test_git_commit(tmp_path: Path) -> None:
    assert provenance.git_commit(tmp_path) is None


def test_a_stage_whose_files_are_gone_is_done_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It was skipped, and the report had a gap where its figures should have been."""
    manifest = begin(tmp_path)
    for stage, names in {
        "gap": ["gap.json"],
        "attack_before": ["attempts.jsonl", "wrapped_attempts.jsonl"],
        "judge": ["verdicts.jsonl", "wrapped_verdicts.jsonl"],
    }.items():
        with manifest.stage(stage):
            for name in names:
                (tmp_path / name).touch()
    (tmp_path / "wrapped_attempts.jsonl").unlink()
    again = begin(tmp_path)
    assert [again.done(stage) for stage in ("gap", "attack_before", "judge")] == [True, False, False]
    assert "wrapped_attempts.jsonl is gone, so stage attack_before is done again" in caplog.text
    assert not (tmp_path / "wrapped_verdicts.jsonl").exists(), "of answers that are no more"
    assert (tmp_path / "verdicts.jsonl").exists()


def test_a_training_whose_model_is_gone_is_not_done_again(tmp_path: Path) -> None:
    """Its checkpoints may be of another policy than the one that was measured."""
    manifest = begin(tmp_path)
    with manifest.stage("train"):
        (tmp_path / "model").mkdir()
    (tmp_path / "model").rmdir()
    with pytest.raises(UserError, match=r"has lost what the training left \(model\); put it back"):
        begin(tmp_path)


def test_a_base_that_is_a_link_to_nowhere_is_gone(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    manifest = begin(tmp_path / "run")
    (tmp_path / "run" / "base").symlink_to(tmp_path / "whole")
    manifest.add("base", 0.0)
    assert begin(tmp_path / "run").done("base")
    (tmp_path / "whole").rmdir()
    assert not begin(tmp_path / "run").done("base")
    assert not (tmp_path / "run" / "base").is_symlink(), "so that a folder can take its place"


def test_an_output_file_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "real.xml")
    assert output_file(tmp_path / "new.xml", "--junit") == tmp_path / "new.xml"
    assert output_file(tmp_path / "link", "--junit") == tmp_path / "far" / "real.xml"
    for folder in (tmp_path, Path("."), Path("/")):
        with pytest.raises(UserError, match=r"--junit: .* is a folder; give a file"):
            output_file(folder, "--junit")
    assert output_file(Path("/dev/stdout"), "--junit") == Path("/dev/stdout")
