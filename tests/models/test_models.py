"""Loading models and writing them back, and one clear line where that cannot be done."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from sirl.errors import UserError
from sirl.models import (
    default_dtype,
    is_adapter,
    keep_freed_memory,
    load_model,
    load_tokenizer,
    merge_adapter,
)
from sirl.models.merging import merge_layers
from sirl.weights.export import export_model
from tiny_models import FAMILIES, tiny_model, tiny_tokenizer

IDS = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, model_folder: Any) -> Path:
    """An adapter on the tiny Llama whose B is not 0."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model_folder("llama"))
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(base, lora).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 1.5])
def test_a_scaled_adapter_adds_that_many_times_what_it_adds(scale: float, adapter: Path) -> None:
    plain, whole = tiny_model("llama").state_dict(), merge_adapter(tiny_model("llama"), adapter).state_dict()
    got = merge_adapter(tiny_model("llama"), adapter, scale).state_dict()
    moved = [name for name in plain if not torch.equal(plain[name], whole[name])]
    assert len(moved) > 5
    for name, weight in got.items():
        torch.testing.assert_close(weight, plain[name] + scale * (whole[name] - plain[name]))


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
def test_load_model(family: str, model_folder: Any) -> None:
    model = load_model(str(model_folder(family)), dtype=torch.float32)
    assert not model.training
    assert model.dtype == torch.float32
    torch.testing.assert_close(logits(model), logits(tiny_model(family)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None])
def test_dtype(dtype: torch.dtype | None, model_folder: Any) -> None:
    assert load_model(str(model_folder("llama")), dtype=dtype).dtype == (dtype or default_dtype())


@pytest.mark.skipif(torch.accelerator.is_available(), reason="what a CPU is good at decides on CPUs alone")
@pytest.mark.parametrize(
    ("avx512", "amx", "limit", "expected"),
    [
        (False, False, "", torch.float32),
        (True, False, "", torch.bfloat16),
        (True, True, "DEFAULT", torch.bfloat16),
        (True, True, "AVX512_CORE_BF16", torch.bfloat16),
        (True, True, "avx512_core", torch.float32),
        (True, True, "AVX2", torch.float32),
    ],
)
def test_default_dtype_is_what_the_processor_says(
    avx512: bool, amx: bool, limit: str, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert default_dtype() == expected


def test_an_adapter_folder_is_loaded_onto_its_base(adapter: Path, model_folder: Any) -> None:
    assert is_adapter(str(adapter))
    assert not is_adapter(str(model_folder("llama")))
    merged = load_model(str(adapter), dtype=torch.float32)
    assert type(merged).__name__ == "LlamaForCausalLM"
    assert (logits(merged) - logits(tiny_model("llama"))).abs().max() > 0.1
    given = load_model(str(model_folder("llama")), adapter=str(adapter), dtype=torch.float32)
    torch.testing.assert_close(logits(given), logits(merged))
    tokenizer = load_tokenizer(str(adapter))
    assert tokenizer.chat_template == tiny_tokenizer().chat_template


def test_adapters_are_added_in_float32(adapter: Path) -> None:
    low = merge_adapter(tiny_model("llama", dtype=torch.bfloat16), adapter)
    exact = merge_adapter(tiny_model("llama", dtype=torch.bfloat16).float(), adapter)
    assert {p.dtype for p in low.parameters()} == {torch.bfloat16}
    for name, parameter in low.named_parameters():
        assert torch.equal(parameter, exact.get_parameter(name).bfloat16()), name


def test_rotary_frequencies_stay_float32(adapter: Path) -> None:
    """In bfloat16 they would turn the positions of long prompts into others; a loaded model has them in float32."""
    low = merge_adapter(tiny_model("llama", dtype=torch.bfloat16), adapter)
    buffers = dict(low.named_buffers())
    assert buffers
    assert {b.dtype for b in buffers.values()} == {torch.float32}
    for name, buffer in tiny_model("llama").named_buffers():
        assert torch.equal(buffers[name], buffer)


def test_a_merged_model_can_be_fine_tuned(adapter: Path) -> None:
    assert all(p.requires_grad for p in merge_adapter(tiny_model("llama"), adapter).parameters())


def adapted(dtype: torch.dtype = torch.bfloat16) -> Any:
    """A PEFT model whose norms are kept in float32, as some architectures keep them."""
    model = tiny_model("llama", dtype=dtype)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data = parameter.data.float() + 1e-4
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))


def test_merging_layer_by_layer_gives_what_merging_in_float32_gives() -> None:
    merged = merge_layers(adapted())
    whole = adapted().float().merge_and_unload()
    assert type(merged).__name__ == "LlamaForCausalLM"
    expected = dict(whole.named_parameters())
    assert {name for name, _ in merged.named_parameters()} == set(expected)
    for name, parameter in merged.named_parameters():
        assert parameter.dtype == (torch.float32 if "norm" in name else torch.bfloat16), name
        assert torch.equal(parameter, expected[name].to(parameter.dtype)), name
    assert {b.dtype for b in merged.buffers()} == {torch.float32}
    before = tiny_model("llama", dtype=torch.bfloat16).model.layers[0].self_attn.q_proj.weight
    assert (expected["model.layers.0.self_attn.q_proj.weight"] - before).abs().max() > 0.01


def test_one_layer_at_a_time_is_held_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them would be four bytes a parameter next to what training holds already."""
    from peft.tuners.lora import Linear

    model, wide = adapted(), []
    plain = Linear.merge

    def merge(self: Any, *args: Any, **kwargs: Any) -> None:
        wide.append(sum(m.get_base_layer().weight.dtype == torch.float32 for m in model.modules() if type(m) is Linear))
        plain(self, *args, **kwargs)

    monkeypatch.setattr(Linear, "merge", merge)
    merge_layers(model)
    assert max(wide) == 1


def test_export_is_read_by_everybody(tmp_path: Path) -> None:
    model = tiny_model("qwen3", dtype=torch.bfloat16)
    folder = export_model(model, tiny_tokenizer(), tmp_path / "out")
    assert folder == tmp_path / "out"
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing half-written is left"
    assert not list(folder.glob("*.bin"))
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert again.dtype == torch.bfloat16
    assert torch.equal(logits(again), logits(model))
    assert again.generation_config.eos_token_id == model.generation_config.eos_token_id
    assert load_tokenizer(str(folder)).chat_template == tiny_tokenizer().chat_template


def test_keep_freed_memory_can_be_called_twice() -> None:
    keep_freed_memory()
    keep_freed_memory()


HOLES = """
from pathlib import Path
import torch
from sirl.models import give_back_memory, keep_freed_memory
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
keep_freed_memory()
blocks = [torch.ones(1 << 18) for _ in range(400)]  # of 1 MiB
del blocks[::2]
before = resident()
give_back_memory()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the settings are glibc's")
def test_gaps_between_blocks_are_given_back() -> None:
    out = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert int(out.stdout) > 150  # MiB of the 200 that were freed


# -- what the user got wrong -------------------------------------------------------------------------------------------


def message_of(load: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "runs/demo/model"])
def test_a_folder_that_is_not_there(load: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # after `make demo` the repository does hold runs/demo/model
    assert message_of(load, name) == (
        f"--model_name_or_path {name}: no such folder; give a model folder, a hub id (org/name) or `demo`"
    )


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_folder_without_a_model(load: Any, tmp_path: Path) -> None:
    assert "the folder holds no config.json" in message_of(load, str(tmp_path))


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_hub_id_that_cannot_be_had(load: Any) -> None:
    message = message_of(load, "no-such-organisation/no-such-model")
    assert message.startswith("--model_name_or_path no-such-organisation/no-such-model: cannot be loaded; give a")


@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "not json"])
def test_damaged_weights(damage: str, tmp_path: Path, model_folder: Any) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder("llama"), folder)
    weights = folder / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-500])
    elif damage == "empty":
        weights.write_bytes(b"")
    else:
        (folder / "config.json").write_text("{")
    assert "cannot be loaded" in message_of(load_model, str(folder))


def test_an_adapter_of_another_model(adapter: Path, tmp_path: Path) -> None:
    assert "cannot be loaded on this base model" in message_of(
        merge_adapter, tiny_model("llama", hidden_size=64), adapter
    )
    assert "cannot be loaded on this base model" in message_of(merge_adapter, tiny_model("llama"), tmp_path)


def test_an_adapter_whose_base_is_gone(adapter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": str(tmp_path / "gone")}))
    assert "no such folder" in message_of(load_model, str(folder))
    config.write_text('{"peft_type": "LORA"}')
    assert "adapter_config.json" in message_of(load_model, str(folder))
