"""QLoRA without its library: what is refused, what is passed on, and which ways such a model does not take.

`make scale` trains on bitsandbytes' own layers.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_runs import tiny_config
from torch import nn
from transformers import AutoModelForCausalLM
from trl import ModelConfig

from sirl.errors import UserError
from sirl.generation.cpu_decoder import prepacked
from sirl.models import load_model
from sirl.training import quantised, run
from sirl.training.arguments import DataConfig, parse_training
from sirl.training.cpu_layers import enable_packing
from sirl.training.memory import Shape, model_size, training_memory
from sirl.training.packed import pack_rows, packed_scores
from sirl.training.quantised import check_quantised, quantisation_config
from sirl.training.run import run_training, starting_model
from tiny_models import PROMPTS, tiny_model

FOUR_BITS = ModelConfig("org/model", load_in_4bit=True, use_peft=True, lora_r=4, lora_dropout=0.0, dtype="float32")


class Packed(nn.Module):
    """A linear layer as bitsandbytes makes them: no `nn.Linear`, a weight of bytes, dequantised at each product."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.scale = float(layer.weight.detach().abs().max()) / 7
        self.weight = nn.Parameter((layer.weight / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def packed_model() -> Any:
    model = tiny_model()
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, module in list(part.named_children()):
                if isinstance(module, nn.Linear):
                    setattr(part, name, Packed(module))
    return model.eval()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda name: name)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("model_settings", "settings", "message"),
    [
        ({"use_peft": False}, {}, "--load_in_4bit: .* add --use_peft"),
        ({}, {"use_vllm": True}, "--load_in_4bit: does not work with --use_vllm"),
        ({}, {"fsdp": "full_shard"}, "--load_in_4bit: does not work with FSDP or DeepSpeed; launch with .*ddp.yaml"),
        ({"model_name_or_path": "demo"}, {}, "--load_in_4bit: does not work for demo"),
    ],
)
def test_where_there_is_none(
    model_settings: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = tiny_config(tmp_path)
    for name, value in settings.items():
        setattr(config, name, value)
    with pytest.raises(UserError, match=message):
        check_quantised(config, replace(FOUR_BITS, **model_settings))
    check_quantised(config, ModelConfig("demo"))


def test_the_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"--load_in_4bit: needs the extra `qlora` \(pip install 'sirl\[qlora\]'\)"):
        check_quantised(tiny_config(tmp_path), FOUR_BITS)


def test_flags() -> None:
    options = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o", "use_cpu": True}
    given = parse_training(["--load_in_4bit", "--use_peft", "--bnb_4bit_quant_type", "fp4"], options).model
    assert (given.load_in_4bit, given.bnb_4bit_quant_type) == (True, "fp4")
    with pytest.raises(UserError, match="--load_in_8bit: would do nothing here"):
        parse_training(["--load_in_8bit", "--use_peft"], options)


@pytest.mark.parametrize(("dtype", "compute"), [(torch.bfloat16, "bfloat16"), (None, "float32")])
def test_transformers_is_told(
    dtype: torch.dtype | None, compute: str, model_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products are in the type of the other weights, also where that is not said: TRL would pass `auto` on."""
    asked: list[Any] = []
    monkeypatch.setattr(quantised, "default_dtype", lambda: torch.float32)
    monkeypatch.setattr(quantised, "get_quantization_config", lambda args: asked.append(args) or "4 bits")
    assert quantisation_config(replace(FOUR_BITS, load_in_4bit=False), dtype) is None
    assert quantisation_config(replace(FOUR_BITS, dtype="auto"), dtype) == "4 bits"
    assert [a.dtype for a in asked] == [compute]

    passed: list[Any] = []

    class Stop(Exception):  # noqa: N818
        pass

    def stop(*_: Any, **settings: Any) -> None:
        passed.append(settings["quantization_config"])
        raise Stop

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", stop)
    for four_bits in (True, False):
        with pytest.raises(Stop):
            starting_model(replace(FOUR_BITS, model_name_or_path=str(model_folder("llama")), load_in_4bit=four_bits))
    assert passed == ["4 bits", None]


def test_no_way_reads_weights_that_are_packed() -> None:
    """Weights laid out for the processor would be made of bytes."""
    assert prepacked(tiny_model()) is not None
    assert prepacked(packed_model()) is None


def test_packed_scoring_goes_through_the_layers() -> None:
    ids = torch.randint(3, 300, (4, 12), generator=torch.Generator().manual_seed(1))
    ids[:, :5] = ids[0, :5]
    mask = torch.ones_like(ids)
    plain = packed_model()
    with torch.no_grad():
        expected = plain(input_ids=ids).logits[:, 4:-1].log_softmax(-1).gather(-1, ids[:, 5:, None]).squeeze(-1)
    enable_packing(plain, on_cpu=True)
    pack = pack_rows(ids, mask, 7, torch.float32)
    assert pack is not None
    found, _ = packed_scores(plain, pack, 1.0, False)
    torch.testing.assert_close(found.view(4, 7), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("installed")
def test_adapters_are_exact_and_end_in_the_whole_weights(
    tmp_path: Path, model_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL casts adapters on a quantised model to bfloat16; what it is exported into are not the rounded weights."""
    loaded: list[tuple[str, bool]] = []

    def load(name: str, *, quantization_config: Any = None, **settings: Any) -> Any:
        loaded.append((Path(name).name, quantization_config is not None))
        model = load_model(name, **settings)
        if quantization_config is not None:
            model.is_loaded_in_4bit = True
            for module in model.model.modules():
                if isinstance(module, nn.Linear):
                    module.weight.data = (module.weight.data * 16).round() / 16
        return model

    monkeypatch.setattr(run, "load_model", load)
    monkeypatch.setattr(run, "quantisation_config", lambda args, _: args.load_in_4bit or None)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    folder = model_folder("llama")
    args = replace(FOUR_BITS, model_name_or_path=str(folder), lora_target_modules=["all-linear"])
    config = tiny_config(tmp_path / "run", learning_rate=1e-2, max_steps=2)
    target = run_training(config, args, DataConfig(dataset_name=str(tmp_path / "prompts.jsonl")))

    assert loaded == [(folder.name, True), ("adapter", False)]
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    assert any((tensor != tensor.bfloat16().float()).any() for tensor in adapter.values()), "no bfloat16 of TRL's"
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter").merge_and_unload()
    hardened = AutoModelForCausalLM.from_pretrained(target).float()
    for name, parameter in hardened.named_parameters():
        torch.testing.assert_close(parameter, merged.get_parameter(name), atol=1e-5, rtol=1e-4, msg=name)


def test_an_adapter_names_the_version_of_its_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export loads the base again: the one that was trained on, not the newest."""
    monkeypatch.setattr(run, "load_model", lambda *_, **__: None)
    args = replace(FOUR_BITS, load_in_4bit=False)
    assert starting_model(args)[1].revision is None
    assert starting_model(replace(args, model_revision="abc"))[1].revision == "abc"


def test_memory_is_counted_in_bits() -> None:
    """4 bits and a scale of 32 for each 64 numbers: 4.5 bits, as the paper counts; embeddings stay whole."""
    size = model_size(tiny_model().config)
    trained = replace(size, trained=100, parameters=size.parameters + 100)
    shape = Shape(weight=2, compute=2, lora=True, rows=2, group=2, prompt=4, completion=4, on_cpu=True)
    whole, packed = training_memory(trained, shape), training_memory(trained, replace(shape, four_bits=True))
    matrices = size.parameters - size.embeddings
    assert whole["weights"] == 2 * size.parameters + 400
    assert packed["weights"] == 2 * size.embeddings + matrices * 4.5 // 8 + 400
    assert "copies for the processor" in whole
    assert "copies for the processor" not in packed
