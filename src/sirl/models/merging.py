"""Adding adapters to the weights that they were trained on."""

from __future__ import annotations

import warnings
from typing import Any

import torch


def merge_layers(model: Any) -> Any:
    """The base model of a PEFT model with its adapters added to the weights, which keep their types and devices.

    Each sum is formed in float32 on the CPU, one layer at a time: a training that just fitted into its GPU must still
    be able to save. All else (buffers, parameters that are kept in float32) stays as it is. Where input and output
    embedding share one weight and an adapter changes one of them, they are separate afterwards, as they were to it.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    before = {_base_name(n): p.dtype for n, p in model.get_base_model().named_parameters() if _base_name(n)}
    _untie_adapted(model.get_base_model())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PEFT: that layers are merged already; that embeddings are untied
        for layer in [m for m in model.modules() if isinstance(m, BaseTunerLayer)]:
            places = [(p, p.device, p.dtype) for p in layer.get_base_layer().parameters(recurse=False)]
            for parameter in layer.parameters():
                parameter.data = parameter.data.to("cpu", torch.float32)
            layer.merge()
            for parameter, device, dtype in places:
                parameter.data = parameter.data.to(device, dtype)
        merged = model.merge_and_unload()
    for name, parameter in merged.named_parameters():  # PEFT trains whole modules (`modules_to_save`) in float32
        parameter.data = parameter.data.to(before.get(name, parameter.dtype))
    return merged


def _base_name(name: str) -> str | None:
    """The name that a parameter has without PEFT; None for a parameter of an adapter."""
    if any(part in name for part in ("lora_", ".modules_to_save.")):
        return None
    return name.replace(".base_layer.", ".").replace(".original_module.", ".")


def _untie_adapted(model: Any) -> None:
    """Give the output embedding a weight of its own where it shares the input's and an adapter is on either."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if None in ends or not any(isinstance(e, BaseTunerLayer | AuxiliaryTrainingWrapper) for e in ends):
        return
    inner = [getattr(e, "original_module", e) for e in ends]
    first, last = (e.get_base_layer() if isinstance(e, BaseTunerLayer) else e for e in inner)
    if last.weight is first.weight or last.weight.data_ptr() == first.weight.data_ptr():
        last.weight = torch.nn.Parameter(last.weight.detach().clone(), requires_grad=last.weight.requires_grad)
        model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = False
