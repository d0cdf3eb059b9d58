"""`sirl card`: flags, one-line errors, and what the hub's client is asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

from sirl.cli.main import main


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "run" / "model").mkdir(parents=True)
    return tmp_path / "run"


class Hub:
    """Stands in for `huggingface_hub.HfApi`."""

    asked: list[tuple[str, Any]]
    error: Exception | None

    def __init__(self) -> None: ...

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        assert exist_ok
        if Hub.error:
            raise Hub.error
        Hub.asked.append(("create", (repo_id, private)))
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        assert (folder_path / "README.md").is_file()
        assert commit_message
        Hub.asked.append(("upload", (repo_id, folder_path.name)))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    Hub.asked, Hub.error = [], None
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    return Hub


def test_card(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", str(run_dir), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"card": str(run_dir / "model" / "README.md"), "url": None}
    assert Path(found["card"]).read_text().startswith("---\n")


def test_push(run_dir: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", str(run_dir), "--push_to_hub", "lab/hard", "--private"]) == 0
    assert hub.asked == [("create", ("lab/hard", True)), ("upload", ("lab/hard", "model"))]
    assert "https://hub/lab/hard" in capsys.readouterr().out


@pytest.mark.parametrize("error", [OfflineModeIsEnabled("no network here"), HTTPError("no network here")])
def test_no_hub(error: Exception, run_dir: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]) -> None:
    hub.error = error
    assert main(["card", str(run_dir), "--push_to_hub", "lab/hard"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("sirl: error: --push_to_hub lab/hard: no network here")
    assert (run_dir / "model" / "README.md").is_file()


REFUSED = 'Invalid metadata in README.md.\n- "base_model" with value "models/llama" is not valid.'


@pytest.mark.parametrize("asked_first", [True, False])
def test_the_hub_refuses_the_metadata(
    asked_first: bool,
    run_dir: Path,
    hub: type[Hub],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Asked before, so that no empty repository is left; or found while it is uploaded, where it could not be asked."""
    hub.error = None if asked_first else ValueError(REFUSED)

    def refuse(_: ModelCard) -> None:
        raise ValueError(REFUSED)

    if asked_first:
        monkeypatch.setattr(ModelCard, "validate", refuse)
    assert main(["card", str(run_dir), "--push_to_hub", "lab/hard"]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert said.startswith('sirl: error: --push_to_hub lab/hard: Invalid metadata in README.md. - "base_model" with')
    assert "the card is kept" in said
    assert (run_dir / "model" / "README.md").is_file()
    assert hub.asked == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--push_to_hub", "nonsense"], "expected OWNER/NAME"),
        (["--push_to_hub", "lab/a--b"], "--push_to_hub lab/a--b: Cannot have -- or .."),
        (["--push_to_hub", "lab/hard.git"], "--push_to_hub lab/hard.git: "),
        (["--push_to_hub", "lab/-hard"], "--push_to_hub lab/-hard: "),
        (["--push_to_hub", f"lab/{'x' * 97}"], "maximum length is 96"),
        (["--private"], "--private: needs --push_to_hub"),
    ],
)
def test_wrong_flags(flags: list[str], message: str, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", str(run_dir), *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (run_dir / "model" / "README.md").exists()


def test_no_model(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run_dir / "model")
    assert main(["card", str(run_dir)]) == 2
    assert "no hardened model" in capsys.readouterr().err
