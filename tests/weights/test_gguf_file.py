"""Models in GGUF files: dequantised once, and one line for what cannot be read."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from sirl.errors import UserError
from sirl.models import load_model, load_tokenizer, model_context
from sirl.provenance import changed, model_source, source_words
from sirl.training.memory import model_config
from sirl.weights.hashes import sha256
from sirl.weights.origin import located
from tiny_gguf import write_gguf
from tiny_models import tiny_tokenizer

IDS = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_file_is_the_model_that_it_was_made_of(family: str, tied: bool, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    model = write_gguf(path, family, tie_word_embeddings=tied)
    got = load_model(str(path), dtype=torch.float32)
    torch.testing.assert_close(logits(got), logits(model), rtol=1e-4, atol=1e-4)
    assert got.config.tie_word_embeddings is tied
    assert got.config._name_or_path == str(path)
    assert model_context(str(path)) == 512
    assert model_config(str(path)).num_hidden_layers == 2


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    got, own = load_tokenizer(str(tmp_path / "tiny.gguf")), tiny_tokenizer()
    for text in ("How do I bake bread?", "<|start|>user\nÜber 漢字<|end|>\n"):
        assert got(text).input_ids == own(text).input_ids
        assert got.decode(got(text).input_ids) == text
    assert (got.eos_token, got.pad_token, got.chat_template) == (own.eos_token, own.pad_token, own.chat_template)


@pytest.mark.parametrize(("quantisation", "most"), [(Type.Q8_0, 0.02), (Type.Q4_0, 0.2), (Type.F16, 0.001)])
def test_quantised_weights_are_near_the_original(quantisation: Type, most: float, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    model = write_gguf(path, "llama", quantisation)
    got = load_model(str(path), dtype=torch.float32).state_dict()
    for name, weight in model.state_dict().items():
        assert (got[name] - weight).norm() <= most * weight.norm(), name


def test_a_file_is_dequantised_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    folder = Path(located(str(path))[0])
    assert folder == cache / f"gguf-{sha256(path)[:32]}"
    assert {p.name for p in cache.iterdir()} == {folder.name}, "no lock or half a model is left"
    monkeypatch.setattr("sirl.weights.gguf_file._convert", lambda *_: pytest.fail("again"))
    (tmp_path / "moved").mkdir()
    assert located(str(path.rename(tmp_path / "moved" / "other.GGUF"))) == (str(folder), None)


def test_a_file_with_another_content_is_another_model(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    first, source = located(str(path)), model_source(str(path))
    write_gguf(path, seed=1)
    assert located(str(path)) != first
    now = model_source(str(path))
    assert source == {**now, "sha256": source["sha256"]}
    assert changed({"model": source}, {"model": now}) == ("model", source, now)
    assert source_words({"gap": {"model": now}}) == f"{path} with SHA-256 {sha256(path)}"


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "tiny.gguf")

    def full(*_: Any, **__: Any) -> None:
        assert list(cache.glob(".gguf-*.partial/model.safetensors"))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left"):
        load_tokenizer(str(tmp_path / "tiny.gguf"))
    assert not cache.exists()


def test_the_cache_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "file").touch()
    monkeypatch.setenv("SIRL_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"^SIRL_CACHE: cannot write to .*set it to a folder that can be written"):
        load_tokenizer(str(tmp_path / "tiny.gguf"))


def test_a_token_that_ends_the_turn(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", change=lambda writer: writer.add_eot_token_id(7))
    assert load_model(str(tmp_path / "tiny.gguf")).generation_config.eos_token_id == [2, 7]


def test_an_adapter_on_a_file(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    path = tmp_path / "tiny-GGUF.gguf"
    write_gguf(path)
    base = load_model(str(path), dtype=torch.float32)
    before = logits(base)
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(base, lora).save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(path)
    got = load_model(str(tmp_path / "adapter"), dtype=torch.float32)
    assert (logits(got) - before).abs().max() > 0.1
    assert load_tokenizer(str(tmp_path / "adapter")).chat_template == tiny_tokenizer().chat_template


# -- rotary scaling ----------------------------------------------------------------------------------------------------

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def rope_tensor(config: Any) -> np.ndarray:
    """The tensor that llama.cpp's converter writes for these settings, by its formula."""
    dim = config.hidden_size // config.num_attention_heads
    out = []
    for i in range(0, dim, 2):
        wavelength = 2 * np.pi * LLAMA3["rope_theta"] ** (i / dim)
        if wavelength < 8192 / 4:
            out.append(1.0)
        elif wavelength > 8192:
            out.append(32.0)
        else:
            smooth = (8192 / wavelength - 1) / 3
            out.append(1 / ((1 - smooth) / 32 + smooth))
    return np.array(out, dtype=np.float32)


def test_scaling_of_llama_3_is_restored(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    shape = {"rope_parameters": dict(LLAMA3), "head_dim": 8}
    tensor = rope_tensor(write_gguf(tmp_path / "other.gguf", **shape).config)
    assert set(tensor) >= {1.0, 32.0}
    model = write_gguf(path, change=lambda w: w.add_tensor("rope_freqs.weight", tensor), **shape)
    got = load_model(str(path), dtype=torch.float32)
    assert got.config.rope_parameters == LLAMA3
    torch.testing.assert_close(logits(got), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", ["tensor", "yarn"])
def test_another_scaling_is_told(how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "tiny.gguf"
    changes: dict[str, Any] = {
        "tensor": lambda w: w.add_tensor("rope_freqs.weight", np.array([1, 2, 3, 4], dtype=np.float32)),
        "yarn": lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN),
    }
    write_gguf(path, change=changes[how])
    with caplog.at_level(logging.WARNING):
        load_model(str(path))
    assert "its rotary scaling" in caplog.text
    assert ("yarn" in caplog.text) is (how == "yarn")


# -- what cannot be read -----------------------------------------------------------------------------------------------


def torn(path: Path) -> None:
    write_gguf(path)
    path.write_bytes(path.read_bytes()[:-5000])


def torn_in_its_header(path: Path) -> None:
    write_gguf(path)
    path.write_bytes(path.read_bytes()[:500])


def no_gguf(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 something else")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lfs(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def unknown_architecture(path: Path) -> None:
    write_gguf(path, arch="rwkv7")


def part(path: Path) -> None:
    write_gguf(path, change=lambda writer: writer.add_uint16("split.count", 3))


def adapter(path: Path) -> None:
    write_gguf(path, change=lambda writer: writer.add_type("adapter"))


def no_tokenizer(path: Path) -> None:
    write_gguf(path, tokenizer=False)


def no_template(path: Path) -> None:
    write_gguf(path, template=False)


def no_layer(path: Path) -> None:
    write_gguf(path, skip="layers.1.mlp")


def unknown_type(path: Path) -> None:
    write_gguf(path, change=lambda w: w.add_tensor("x.weight", np.zeros((1, 292), np.uint8), raw_dtype=Type.Q8_K))


REFUSED = {
    torn: r"is incomplete or damaged \(.*\); get the file again",
    torn_in_its_header: r"is incomplete or damaged \(.*\); get the file again",
    no_gguf: r"is not a GGUF file, despite its name; get the file again",
    empty: r"is not a GGUF file",
    lfs: r"is a pointer of Git LFS, not the file; run git lfs pull there",
    unknown_architecture: r"reads no GGUF file of this architecture \(.*rwkv7.*\); give the transformers model that",
    part: r"is one of 3 parts; join them: llama-gguf-split --merge",
    adapter: r"holds adapter, not a whole model; give one",
    no_tokenizer: r"holds no tokenizer; give a GGUF file of the whole model",
    no_template: r"the tokenizer has no chat template",
    no_layer: r"finds no weights for model\.layers\.1\.mlp\.\S+ in this GGUF file; give the transformers model",
    unknown_type: r"holds weights of type Q8_K \(x\.weight\), which gguf cannot dequantise; give a file of an",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_one_line_says_what_to_do(make: Any, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "tiny.gguf"
    make(path)
    with pytest.raises(UserError, match=REFUSED[make]) as caught:
        load_tokenizer(str(path))
    assert str(caught.value).startswith(f"--model_name_or_path {path}: ")
    assert "\n" not in str(caught.value)
    if make is not no_template:
        assert not list(cache.glob("gguf-*"))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file; give a GGUF file, or one of a hub repository"):
        load_tokenizer(str(tmp_path / "missing.gguf"))


def test_a_file_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name in the hub's cache, of the revision that is asked for; where there is none, the hub says why."""
    commit = "a" * 40
    path = tmp_path / "hub" / "snapshots" / commit / "q8" / "tiny.gguf"
    path.parent.mkdir(parents=True)
    write_gguf(path)
    asked = []

    def download(repository: str, file: str, revision: str | None = None) -> str:
        asked.append((repository, file, revision))
        if repository != "lab/tiny-GGUF":
            raise OSError("no such repository")
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    name = "lab/tiny-GGUF:q8/tiny.gguf"
    assert load_model(name, revision="v1").config._name_or_path == name
    assert asked == [("lab/tiny-GGUF", "q8/tiny.gguf", "v1")]
    source = {"name": name, "kind": "gguf", "revision": "v1", "commit": commit, "sha256": sha256(path)}
    assert model_source(name, "v1") == source
    with pytest.raises(UserError, match=r"lab/other:x\.gguf: cannot be downloaded from the hub \(no such repository\)"):
        load_tokenizer("lab/other:x.gguf")
