"""The benchmarks' own arithmetic and machinery; what they measure is not repeated here."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.__main__ import described, ratio, table
from benchmarks.update import flops_of_update
from benchmarks.workers import Contender, Result, compare
from sirl.training.packed import add_packed_forward, pack, packed_scores
from tiny_models import tiny_model
from turn_takers import breaks_down, dies, not_there, sleeper


def test_contenders_take_turns() -> None:
    said: list[str] = []
    contenders = [
        Contender("fast", sleeper, {"seconds": 0.05}),
        Contender("slow", sleeper, {"seconds": 0.2}),
        Contender("missing", not_there),
        Contender("broken", breaks_down),
        Contender("dead", dies),
    ]
    results = compare(contenders, rounds=2, say=said.append)
    assert [len(results[name].rounds) for name in ("fast", "slow", "missing", "broken", "dead")] == [2, 2, 0, 0, 0]
    assert results["missing"].error == "not measured: no such library"
    assert results["broken"].error == "ValueError: in the first round"
    assert "code 3" in str(results["dead"].error)
    assert results["fast"].peak_bytes > 1 << 20
    order = [line.split(":")[0].strip() for line in said if ", " in line and "s" in line and "round" in line]
    assert order == ["slow", "fast", "fast", "slow"], "turned round after the warm-up"
    found = ratio(results["slow"], results["fast"], against="slow")
    assert 2 < found["value"] < 5
    assert found["n"] == 2


def test_what_failed_is_in_the_table_and_in_no_ratio() -> None:
    results = {"a": Result([{"seconds": 1.0}, {"seconds": 3.0}], 2_000_000_000), "b": Result([], 0, "not measured: x")}
    figures = {"step": described(results), "step_ratio": {"value": 2.0, "spread": [1.5, 2.5], "n": 2, "against": "a"}}
    json.dumps(figures)
    text = table(figures)
    assert figures["step"]["a"]["seconds"]["median"] == 2.0
    assert "not measured: x" in text
    assert "2  (1.5 to 2.5)  n = 2  against a" in text


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_flops_are_those_that_torch_counts(family: str) -> None:
    """Matrix products of one update on a packed batch. torch counts the head once more, which is recomputed, and the
    whole of the attention's square."""
    prompts, lengths = [[5, 6, 7, 8], [9, 10, 11]], [[3, 2], [4, 1]]
    completions = [[list(range(20, 20 + n)) for n in group] for group in lengths]
    model = get_peft_model(tiny_model(family), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    add_packed_forward(model.get_base_model())
    rows = [p for p, group in zip(prompts, completions, strict=True) for _ in group]
    packed = pack(rows, [c for group in completions for c in group], torch.float32)
    assert packed is not None
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad(), model.disable_adapter():
            packed_scores(model, packed, 1.0, False)
        packed_scores(model, packed, 1.0, True)[0].sum().backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in counts.items() if "mm" in str(op) and "bmm" not in str(op))
    config = model.config
    head = 2 * 10 * config.hidden_size * config.vocab_size
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pairs = sum(n * (n + 1) / 2 for n in (3, 2)) + sum(
        n * stem + n * (n + 1) / 2 for stem, group in ((3, (3, 2)), (2, (4, 1))) for n in group
    )
    attention = 4 * 4 * pairs * config.num_attention_heads * dim * config.num_hidden_layers
    expected = flops_of_update(config, [4, 3], lengths, 4) - attention
    # the first layer's input takes no gradient: its frozen q, k and v need no product for it
    kv = 2 * config.num_key_value_heads * dim
    spared = 2 * 15 * (config.hidden_size * (config.num_attention_heads * dim + kv))
    assert products - head == pytest.approx(expected, abs=spared + 2 * 15 * 4 * 3 * config.hidden_size)
    assert products - head == pytest.approx(expected, rel=0.1)
