"""What all tests share: no network, one thread, and tiny models saved as a user would have them.

Its being here puts this folder on the path, so that tests in subfolders import the helpers beside it.
"""

from __future__ import annotations

import gc
import os
import signal

# before any Hugging Face import: nothing may wait for a network that is not there
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # figures are compared to the last bit, and tiny models gain nothing from a GPU
os.environ.setdefault("OMP_NUM_THREADS", "1")

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# A shell that starts the tests in the background has Ctrl-C ignored, and every process below would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = (
    "tests/faults/test_faults.py",
    "tests/weights/test_real_model.py",
    "tests/compare/test_compare_baselines.py",
    "tests/demo/test_demo_model.py",
    "tests/training/test_training_distributed.py",
    "tests/cli/test_cli_launch.py",
)
"""Files that take longest, most of them with few tests: they begin first, so that no process ends alone with them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test` hands out files in this order (`--no-loadscope-reorder`)."""
    if missing := [name for name in LONGEST if not (Path(__file__).parents[1] / name).is_file()]:
        raise pytest.UsageError(f"LONGEST in tests/conftest.py names what is not there: {', '.join(missing)}")
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_disks() -> Iterator[None]:
    """What survives a power cut cannot be seen from here, and each file that is written would wait for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session", autouse=True)
def _messages_name_flags() -> None:
    """As on a command line; `test_public.py` has what Python shows."""
    from sirl.errors import name_flags

    name_flags()


@pytest.fixture(scope="session", autouse=True)
def _little_garbage() -> None:
    """What the tests' imports made stays for good: to look through it for garbage again and again takes time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from tiny_models import tiny_tokenizer

    return tiny_tokenizer()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`model_folder("qwen2")`: a tiny float32 model of that family with its tokenizer, saved once a session."""
    from tiny_models import tiny_model, tiny_tokenizer

    made: dict[str, Path] = {}

    def get(family: str = "llama") -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("models") / family
            tiny_model(family).save_pretrained(made[family])
            tiny_tokenizer().save_pretrained(made[family])
        return made[family]

    return get


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server of the OpenAI protocol on this machine, of the model `served`, that asks for no key."""
    from openai_server import Server

    for name in ("SIRL_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 3,200 attacks and 600 benign prompts."""
    from report_runs import write_run

    return write_run(tmp_path_factory.mktemp("runs") / "demo")
