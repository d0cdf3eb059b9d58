"""Files and names that somebody made to do harm: one clear line each, exit code 2, nothing written, nothing run.

Models, data, configurations and names come from others. Every input here goes through a whole command in this process.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

DEEP = 100_000
SECONDS = 10.0
"""Of processor time, for one input. What would run for ever is stopped after 5."""

Json = dict[str, Any]


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that hostile code would make, in the folder that all runs in."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here / "PWNED"


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise BaseExceptionGroup("took too long", [KeyboardInterrupt()])  # nothing catches that by accident

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.fixture
def refused(sirl: Any, trap: Path, tmp_path: Path) -> Callable[..., str]:
    """Run a command that has to end with one line and leave nothing behind; returns the line."""

    def call(*words: object) -> str:
        before = sorted(str(p) for p in tmp_path.rglob("*"))
        with at_most(SECONDS):
            line: str = sirl(*words).error
        assert not trap.exists(), "code of an input was run"
        after = [str(p) for p in tmp_path.rglob("*") if p.is_file() or any(p.iterdir())]
        assert set(after) <= {*before}, "something was written"
        assert len(line) < 1500
        assert all(c.isprintable() for c in line), line
        return line

    return call


@pytest.fixture
def attacked(refused: Any, tmp_path: Path) -> Callable[..., str]:
    goals = tmp_path / "goals.txt"
    goals.write_text("Bake bread?\nGrow tomatoes?\n")

    def call(model: object, goals: object = goals) -> str:
        return str(
            refused(
                *("attack", "--model_name_or_path", model, "--goals", goals, "--attacks", "direct"),
                *("--max_new_tokens", 1, "--output_dir", tmp_path / "out"),
            )
        )

    return call


@pytest.fixture
def folder(model_folder: Any, tmp_path: Path) -> Path:
    """A model of one's own to spoil."""
    copy = tmp_path / "model"
    shutil.copytree(model_folder("llama"), copy)
    return copy


# --- chat templates -----------------------------------------------------------------------------------------------

TEMPLATES = {
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "popen": "{{ cycler.__init__.__globals__.os.popen('touch PWNED').read() }}",
    "system": "{{ lipsum.__globals__['os'].system('touch PWNED') }}",
    "attr": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "globals": "{{ self.__init__.__globals__.__builtins__.open('PWNED', 'w') }}",
    "import": "{% import 'os' as os %}{{ os.system('touch PWNED') }}",
    "include": "{% include '/etc/passwd' %}",
    "changes the messages": "{{ messages.append({'role': 'user', 'content': 'x'}) }}",
    "long range": "{% for i in range(10 ** 9) %}x{% endfor %}",
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops over text": "{% set t = 'x' * 9999999 %}{% for i in t %}{% for j in t %}{% endfor %}{% endfor %}",
    "loops for a system turn": "Hi{% if messages[1] %}{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% endfor %}{% endfor %}{% endif %}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "doubles": "{% set n = namespace(t='x' * 99999) %}{% for i in range(99) %}{% set n.t = n.t + n.t %}{% endfor %}",
    "long text": "{{ 'x' * 20000000 }}",
    "longer than memory": "{{ 'x' * 10 ** 15 }}",
    "wide": "{{ '%99999999999999d' % 1 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "division": "{{ 1 / 0 }}",
    "no such message": "{{ messages[99]['content'] + 'x' }}",
    "types": "{{ messages + 1 }}",
    "unfinished": "{% if messages %}",
    "nesting": "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
    "refuses": "{{ raise_exception('never') }}",
    "nothing": "{# nothing #}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_chat_templates(name: str, folder: Path, attacked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sirl.chat.template_trial.SECONDS", 1)
    (folder / "chat_template.jinja").write_text(TEMPLATES[name])
    assert "chat template" in attacked(folder)


# --- tokenizers, configurations -----------------------------------------------------------------------------------

TEXTS: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"hello",
    "binary": bytes(range(256)),
    "list": b"[]",
    "null": b"null",
    "deep": b"[" * DEEP,
    "deep object": b'{"a":' * DEEP,
    "huge integer": b'{"model_type": "llama", "hidden_size": ' + b"9" * 100_000 + b"}",
    "cut off": b'{"model_type": "lla',
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_json_that_is_none(file: str, text: str, folder: Path, attacked: Any) -> None:
    (folder / file).write_bytes(TEXTS[text])
    if file == "tokenizer_config.json":  # else the template would stand beside it
        (folder / "chat_template.jinja").unlink(missing_ok=True)
    assert "--model_name_or_path" in attacked(folder)


CODE = "open('PWNED', 'w').write('x')\nclass Evil: pass\n"
CONFIGS: dict[str, Json] = {
    "code of its own": {
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"},
        "model_type": "x",
    },
    "code under a known type": {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}, "model_type": "evil"},
    "path as type": {"model_type": "../../evil"},
    "layers": {"num_hidden_layers": 10**9},
    "negative layers": {"num_hidden_layers": -1},
    "layers as text": {"num_hidden_layers": "many"},
    "no layers": {"num_hidden_layers": 0},
    "half a layer": {"num_hidden_layers": 1.5},
    "no width": {"hidden_size": 0},
    "no tokens": {"vocab_size": 0},
    "no keys": {"num_key_value_heads": 0},
    "negative keys": {"num_key_value_heads": -1},
    "negative heads": {"num_attention_heads": -1},
    "no head": {"head_dim": 0},
    "a long head": {"head_dim": 2**40},
    "no positions": {"max_position_embeddings": 0},
    "architectures as number": {"architectures": 7},
    "wide": {"hidden_size": 2**40},
    "vocabulary": {"vocab_size": 2**62},
    "heads": {"num_attention_heads": 0},
    "activation": {"hidden_act": "__import__('os').system('touch PWNED')"},
    "architecture": {"architectures": [{"a": 1}]},
    "quantisation": {"quantization_config": {"quant_method": "__import__('os')"}},
    "type as list": {"model_type": ["llama"]},
    "positions": {"rope_parameters": {"rope_type": "evil"}},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations(name: str, folder: Path, attacked: Any) -> None:
    (folder / "evil.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **CONFIGS[name]}))
    assert "--model_name_or_path" in attacked(folder)


TOKENIZERS: dict[str, Json] = {
    "code of its own": {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"},
    "class of a module": {"tokenizer_class": "os.system"},
    "template as number": {"chat_template": 5},
    "template as object": {"chat_template": {"a": "b"}},
    "end as list": {"eos_token": [1, 2]},
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers(name: str, folder: Path, attacked: Any) -> None:
    (folder / "evil.py").write_text(CODE)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **TOKENIZERS[name]}))
    assert "--model_name_or_path" in attacked(folder)


# --- weights and adapters -----------------------------------------------------------------------------------------


def _header(header: object, size: int | None = None, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


WEIGHTS = {
    "empty": b"",
    "short": b"\x01",
    "text": b"these are no weights, whatever they are called",
    "header larger than the file": _header({}, 2**62),
    "header of a gigabyte": _header({}, 2**30),
    "deep header": _header(b"[" * DEEP),
    "header that is a list": _header([]),
    "beyond the end": _header({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    "overflow": _header({"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, data=b"1234"),
    "negative": _header({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [-4, 0]}}),
    "unknown type": _header({"w": {"dtype": "EVIL", "shape": [1], "data_offsets": [0, 4]}}, data=b"1234"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name: str, folder: Path, attacked: Any) -> None:
    (folder / "model.safetensors").write_bytes(WEIGHTS[name])
    assert "--model_name_or_path" in attacked(folder)


class Evil:
    """Unpickled, it makes the file that tells of it."""

    def __reduce__(self) -> Any:
        return os.system, ("touch PWNED",)


def test_pickled_weights(folder: Path, attacked: Any) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    assert "safetensors" in attacked(folder)


ADAPTERS: dict[str, Json] = {
    "parent folders": {"base_model_name_or_path": "../../etc"},
    "file of the system": {"base_model_name_or_path": "/etc/passwd"},
    "folder of the system": {"base_model_name_or_path": "/etc"},
    "home": {"base_model_name_or_path": "~/.ssh"},
    "address": {"base_model_name_or_path": "http://127.0.0.1:9/x"},
    "lines": {"base_model_name_or_path": "a\nb\x1b[31m"},
    "NUL": {"base_model_name_or_path": "a\0b"},
    "itself": {"base_model_name_or_path": "SELF"},
    "nothing": {"base_model_name_or_path": ""},
    "number": {"base_model_name_or_path": 7},
    "long": {"base_model_name_or_path": "x" * 5000},
    "kind": {"peft_type": "__import__('os')"},
    "rank": {"r": 10**12},
    "no rank": {"r": -1},
    "pattern": {"target_modules": "(a+)+$("},
    "modules": {"target_modules": ["no_such_module"]},
    "revision": {"base_model_name_or_path": "lab/x", "revision": "../../x"},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters(name: str, folder: Path, attacked: Any, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 2,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": str(folder),
    }
    config |= ADAPTERS[name]
    if config["base_model_name_or_path"] == "SELF":
        config["base_model_name_or_path"] = str(adapter)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "adapter_model.safetensors").write_bytes(_header({}))
    attacked(adapter)


def test_pickled_adapter(folder: Path, attacked: Any, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": str(folder)}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Evil()))
    attacked(adapter)


# --- data -----------------------------------------------------------------------------------------------------------

DATA: dict[str, bytes] = {
    "deep.jsonl": b"[" * DEEP,
    "deep-object.jsonl": b'{"prompt": ' + b'{"a":' * DEEP + b"1" + b"}" * (DEEP + 1),
    "deep.json": b"[" * DEEP + b"]" * DEEP,
    "integer.jsonl": b'{"prompt": ' + b"9" * 100_000 + b"}",
    "binary.jsonl": bytes(range(256)) * 4,
    "half.jsonl": b'{"prompt": "\\ud83d"}',
    "number.jsonl": b"7",
    "unfinished.jsonl": b'{"prompt": "a',
    "messages.jsonl": b'{"prompt": [{"role": {"a": 1}, "content": []}]}',
    "infinity.jsonl": b'{"prompt": Infinity}',
    "keys.jsonl": b'{"\\u0000": "a"}',
    "binary.csv": bytes(range(256)) * 4,
    "nul.csv": b"prompt\na\0b,c\n",
    "quotes.csv": b'prompt\n"' + b"a" * 200_000,
    "garbage.parquet": b"PAR1" + os.urandom(64) + b"PAR1",
    "short.parquet": b"PAR1",
    "thrift.parquet": b"PAR1" + b"\xff" * 100 + struct.pack("<I", 2**31 - 1) + b"PAR1",
    "zip.parquet": b"PK\x03\x04" + b"\0" * 64,
    "binary.txt": b"\xff\xfe\xfa",
    "not.jsonl.gz": b"\x1f\x8b\x08 not gzipped at all",
    "empty.json": b"",
}


@pytest.mark.parametrize("name", DATA)
def test_data(name: str, attacked: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(DATA[name])
    assert "--goals: " in attacked("demo", tmp_path / name)


# --- configurations of runs -----------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
YAML: dict[str, bytes] = {
    "billion laughs": LAUGHS.encode(),
    "billion laughs in a value": f"{LAUGHS}name: *a29\nmodel_name_or_path: demo\ntrain: {{dataset_name: x}}\n".encode(),
    "code": b"!!python/object/apply:os.system ['touch PWNED']",
    "code in a value": b"name: !!python/object/new:os.system ['touch PWNED']",
    "deep": b"[" * DEEP,
    "deep mapping": b"{a: " * DEEP,
    "of itself": b"a: &a [*a]",
    "key of itself": b"? &a [*a]\n: x",
    "merge of itself": b"a: &a\n  <<: *a",
    "list as key": b"? [a, b]\n: x",
    "binary": bytes(range(256)),
    "integer": b"seed: " + b"9" * 100_000,
    "name": b'name: "../../x"\nmodel_name_or_path: demo\ntrain: {dataset_name: x}',
    "name of NUL": b'name: "a\\0b"\nmodel_name_or_path: demo\ntrain: {dataset_name: x}',
    "name of lines": b'name: "a\\nb\\e[31m"\nmodel_name_or_path: demo\ntrain: {dataset_name: x.jsonl}',
    "seed": b"name: a\nmodel_name_or_path: demo\ntrain: {dataset_name: x.jsonl}\nseed: 1e999",
}


@pytest.mark.parametrize("name", YAML)
def test_yaml(name: str, refused: Any, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(YAML[name])
    refused("run", "--config", tmp_path / "run.yaml")
    if name not in ("name", "name of NUL", "name of lines", "seed"):
        refused("train", "--config", tmp_path / "run.yaml", "--output_dir", tmp_path / "out")


# --- names ----------------------------------------------------------------------------------------------------------

NAMES = ["a\0b", "x" * 5000, "/proc/self/x", "/dev/null/x", "\udcff\0", "a" * 300 + "/b"]


@pytest.mark.parametrize("name", [name for name in NAMES if "\0" not in name], ids=lambda name: ascii(name)[:20])
def test_names_of_folders(name: str, refused: Any, folder: Path, tmp_path: Path) -> None:
    goals = tmp_path / "goals.txt"
    goals.write_text("Bake bread?\n")
    words = ("--attacks", "direct", "--goals", goals, "--max_new_tokens", 1)
    refused("attack", "--model_name_or_path", folder, *words, "--output_dir", name)


@pytest.mark.parametrize(
    "name",
    [*NAMES, "", "a\nb\x1b[31m", "-x", "../../etc", "\udcff", "http://x/y", "a:b@c#d/../e"],
    ids=lambda name: ascii(name)[:20],
)
def test_names_of_models_and_data(name: str, attacked: Any, folder: Path, refused: Any) -> None:
    attacked(f"{name}")
    attacked(folder, f"{name}.jsonl" if name else name)
    refused("report", name or "nothing")
    refused("run", "--config", name or "nothing")
