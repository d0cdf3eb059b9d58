"""The scripts of examples/ work on tiny models."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sirl.gap import GapConfig

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"How do I bake loaf {i}?\n" for i in range(4)))
    return str(path)


def test_every_script_is_listed() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"({path.name})" in page for path in EXAMPLES.glob("*.py"))


def test_measure_gap(model_folder: Any, prompts: str) -> None:
    result = example("measure_gap").measure(str(model_folder()), prompts, GapConfig(k=2, max_new_tokens=4))
    assert result.to_dict()["verdict"] == "too few"  # of four prompts


def test_harden_then_attack(model_folder: Any, prompts: str, tmp_path: Path) -> None:
    base = str(model_folder())
    tiny = {"max_steps": 1, "max_completion_length": 4, "num_generations": 2, "per_device_train_batch_size": 2}
    hardened = example("harden").harden(base, str(tmp_path / "out"), prompts, prompts, use_cpu=True, **tiny)
    assert (Path(hardened) / "model.safetensors").is_file()
    report = example("attack").compare(base, hardened, str(tmp_path / "run"), prompts, "direct,aim")
    assert len((tmp_path / "run" / "attempts.jsonl").read_text().splitlines()) == 2 * 2 * 4
    assert "What changed" in report.read_text(encoding="utf-8")
