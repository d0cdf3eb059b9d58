"""Rollouts of `LocalEngine`: their entropies against a float64 reference, their tokens against transformers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from precision import check_no_worse
from sirl.generation import SamplingParams, cache, decode
from sirl.generation.base import Engine
from sirl.generation.cache import supports_decode_cache
from sirl.generation.decode import Rollout, without_gradients
from sirl.generation.local import LocalEngine
from sirl.records import user_turn
from tiny_models import FAMILIES, PROMPTS, chat_ids, reference_scores, tiny_model

ANY_FAMILY = (*FAMILIES, "mistral", "sliding", "gpt2")
"""The last two cannot take our decode loop and go through `transformers.generate`."""


@pytest.fixture(autouse=True, params=["fused", "modules"])
def forward(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything here holds for the fused model of CPUs and for transformers' modules, which all others take."""
    if request.param == "modules":
        monkeypatch.setattr("sirl.generation.local.prepacked", lambda _: None)
    return str(request.param)


def model_of(family: str, **kwargs: Any) -> Any:
    if family == "mistral":
        return tiny_model("mistral", sliding_window=None, **kwargs)
    if family == "sliding":
        return tiny_model("mistral", sliding_window=8, **kwargs)
    return tiny_model(family, **kwargs)


def tokens_of(groups: Sequence[Sequence[Rollout]]) -> list[list[list[int]]]:
    return [[r.token_ids for r in group] for group in groups]


def check_against_reference(
    model: Any, prompts: Sequence[Sequence[int]], groups: Sequence[Sequence[Rollout]], temperature: float, atol: float
) -> None:
    for prompt, group in zip(prompts, groups, strict=True):
        for rollout in group:
            assert len(rollout.token_ids) == len(rollout.entropies) == len(rollout.logprobs) > 0
            entropies, logprobs = reference_scores(model, prompt, rollout.token_ids, temperature)
            got = torch.tensor(rollout.entropies, dtype=torch.float64)
            torch.testing.assert_close(got, entropies, atol=atol, rtol=0)
            got = torch.tensor(rollout.logprobs, dtype=torch.float64)
            torch.testing.assert_close(got, logprobs, atol=atol, rtol=0)


@pytest.mark.parametrize("family", ANY_FAMILY)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropies_equal_the_reference(family: str, temperature: float, tokenizer: Any) -> None:
    """Left-padded prompts of unequal length, several samples each, some of which end early."""
    model = model_of(family)
    prompts = chat_ids(tokenizer, PROMPTS)
    assert len({len(p) for p in prompts}) > 4
    params = SamplingParams(max_new_tokens=24, temperature=temperature, n=4, seed=1)
    groups = LocalEngine(model, tokenizer).rollout(prompts, params)
    assert [len(g) for g in groups] == [4] * len(prompts)
    lengths = [len(r.token_ids) for g in groups for r in g]
    if family != "gpt2":  # its output layer is tied to the embeddings and cannot be given a habit of ending
        assert min(lengths) < 12
    assert max(lengths) > 16
    for rollout in (r for g in groups for r in g):
        assert rollout.finished == (rollout.token_ids[-1] == tokenizer.eos_token_id)
        assert tokenizer.eos_token_id not in rollout.token_ids[:-1]
        assert rollout.finished or len(rollout.token_ids) == 24
    check_against_reference(model, prompts, groups, temperature, atol=1e-4)


Errors = list[torch.Tensor]


def errors_in_bfloat16(family: str, temperature: float, tokenizer: Any) -> tuple[Errors, Errors]:
    """How far the entropies of each completion of three models are from float64: ours, and those of a plain forward."""
    ours, plain = [], []
    prompts = chat_ids(tokenizer, PROMPTS)
    for seed in range(3):
        model = tiny_model(family, dtype=torch.bfloat16, seed=seed)
        exact_model = copy.deepcopy(model).double()
        groups = LocalEngine(model, tokenizer).rollout(prompts, SamplingParams(24, temperature, n=4, seed=seed))
        for prompt, group in zip(prompts, groups, strict=True):
            for rollout in group:
                exact, _ = reference_scores(exact_model, prompt, rollout.token_ids, temperature)
                ours.append(torch.tensor(rollout.entropies, dtype=torch.float64) - exact)
                plain.append(reference_scores(model, prompt, rollout.token_ids, temperature)[0] - exact)
    return ours, plain


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropies_in_bfloat16(family: str, temperature: float, tokenizer: Any) -> None:
    """No worse than a plain forward in bfloat16: token by token, and in the mean over a completion, the reward."""
    ours, plain = errors_in_bfloat16(family, temperature, tokenizer)
    check_no_worse(ours, plain)
    check_no_worse([e.mean()[None] for e in ours], [e.mean()[None] for e in plain], margin=1.25)


@pytest.mark.parametrize("fault", ["temperature", "hidden token", "rounding"])
def test_a_fault_is_not_taken_for_rounding(fault: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temperature that is 2% off, a prompt token that nobody sees, logits that are rounded once more."""
    draw, pad = decode.sample_with_entropy, decode.left_pad

    def hide(*args: Any) -> Any:
        ids, mask = pad(*args)
        mask[:, -3] = 0
        return ids, mask

    if fault == "temperature":
        monkeypatch.setattr(decode, "sample_with_entropy", lambda z, u, t: draw(z, u, 1.02 * t))
    elif fault == "hidden token":
        monkeypatch.setattr(decode, "left_pad", hide)
    else:
        monkeypatch.setattr(decode, "sample_with_entropy", lambda z, u, t: draw((z * 4).round() / 4, u, t))
    ours, plain = errors_in_bfloat16("qwen2", 0.7, tokenizer)
    with pytest.raises(AssertionError, match=r"root mean square|shifted by"):
        check_no_worse(ours, plain)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_any_attention_implementation(attention: str, tokenizer: Any) -> None:
    model = tiny_model("llama", attn_implementation=attention)
    assert model.config._attn_implementation == attention
    prompts = chat_ids(tokenizer, PROMPTS)
    groups = LocalEngine(model, tokenizer).rollout(prompts, SamplingParams(16, 1.0, n=2, seed=1))
    check_against_reference(model, prompts, groups, 1.0, atol=1e-4)


@pytest.mark.parametrize("family", ANY_FAMILY)
def test_greedy_equals_transformers(family: str, tokenizer: Any) -> None:
    model = model_of(family)
    prompts = chat_ids(tokenizer, PROMPTS)
    groups = LocalEngine(model, tokenizer).rollout(prompts, SamplingParams(max_new_tokens=20, n=2))
    for prompt, group in zip(prompts, groups, strict=True):
        expected = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=20,
            do_sample=False,
        )[0, len(prompt) :]
        assert [r.token_ids for r in group] == [expected.tolist()] * 2
    check_against_reference(model, prompts, groups, 1.0, atol=1e-4)


@pytest.mark.parametrize("family", ANY_FAMILY)
@pytest.mark.parametrize("n", [1, 3])
def test_greedy_and_sampled_answers_from_one_prefill(family: str, n: int, tokenizer: Any) -> None:
    """Token for token those of two calls, with a prompt that comes twice and rows that end at different times."""
    engine = LocalEngine(model_of(family), tokenizer, max_rows=8)  # several batches
    prompts = chat_ids(tokenizer, [*PROMPTS, PROMPTS[0]])
    params = SamplingParams(max_new_tokens=12, temperature=1.0, n=n, seed=3)
    both = engine.rollout(prompts, params, greedy=True)
    apart = [
        [*greedy, *sampled]
        for greedy, sampled in zip(
            engine.rollout(prompts, SamplingParams(max_new_tokens=12)), engine.rollout(prompts, params), strict=True
        )
    ]
    assert tokens_of(both) == tokens_of(apart)
    pairs = [pair for groups in zip(both, apart, strict=True) for pair in zip(*groups, strict=True)]
    for ours, theirs in pairs:
        assert ours.entropies == pytest.approx(theirs.entropies, abs=1e-4)
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
        assert ours.finished == theirs.finished


def test_one_prefill_for_both(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, prompts = LocalEngine(model_of("llama"), tokenizer), chat_ids(tokenizer, PROMPTS)
    prefilled: list[int] = []
    prefill = decode.prefill
    monkeypatch.setattr(decode, "prefill", lambda m, p, *a, **k: prefilled.append(len(p)) or prefill(m, p, *a, **k))
    engine.rollout(prompts, SamplingParams(max_new_tokens=2, temperature=1.0), greedy=True)
    assert sum(prefilled) == len(prompts)
    with pytest.raises(ValueError, match="temperature above 0"):
        engine.rollout(prompts, SamplingParams(max_new_tokens=2), greedy=True)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_peft_model(family: str, tokenizer: Any) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapted = get_peft_model(
        model_of(family), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    ).eval()
    settings = adapted.generation_config.to_dict()
    prompts = chat_ids(tokenizer, PROMPTS)
    groups = LocalEngine(adapted, tokenizer).rollout(prompts, SamplingParams(12, 1.0, n=2, seed=1))
    check_against_reference(adapted, prompts, groups, 1.0, atol=1e-4)
    assert adapted.generation_config.to_dict() == settings
    assert adapted.get_base_model().generation_config.to_dict() == settings


# -- determinism -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
def test_samples_depend_on_seed_and_prompt_alone(family: str, tokenizer: Any) -> None:
    """Not on batch size, order or the prompts beside them, so that an interrupted run goes on as it began."""
    model = model_of(family)
    prompts = chat_ids(tokenizer, PROMPTS)
    params = SamplingParams(max_new_tokens=16, temperature=1.0, n=3, seed=7)
    expected = tokens_of(LocalEngine(model, tokenizer).rollout(prompts, params))
    assert tokens_of(LocalEngine(model, tokenizer).rollout(prompts, params)) == expected
    for max_rows in (3, 7):
        assert tokens_of(LocalEngine(model, tokenizer, max_rows=max_rows).rollout(prompts, params)) == expected
    assert tokens_of(LocalEngine(model, tokenizer).rollout(prompts[::-1], params)) == expected[::-1]
    assert tokens_of(LocalEngine(model, tokenizer).rollout([prompts[5]], params)) == [expected[5]]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_longer_limit_goes_on_from_a_shorter_one(family: str, tokenizer: Any) -> None:
    prompts = chat_ids(tokenizer, PROMPTS[:3])
    engine = LocalEngine(model_of(family), tokenizer)
    short = tokens_of(engine.rollout(prompts, SamplingParams(6, 1.0, n=2, seed=7)))
    long = tokens_of(engine.rollout(prompts, SamplingParams(12, 1.0, n=2, seed=7)))
    assert [[ids[:6] for ids in group] for group in long] == short


def test_seeds_samples_and_prompts_differ(tokenizer: Any) -> None:
    engine = LocalEngine(tiny_model("llama"), tokenizer)
    prompts = chat_ids(tokenizer, PROMPTS)
    first = tokens_of(engine.rollout(prompts, SamplingParams(16, 1.0, n=4, seed=1)))
    second = tokens_of(engine.rollout(prompts, SamplingParams(16, 1.0, n=4, seed=2)))
    assert all(a != b for a, b in zip(first, second, strict=True))
    assert all(len({tuple(ids) for ids in group}) > 1 for group in first)
    assert sum(len({tuple(ids) for ids in group}) == 4 for group in first) > 4  # some end at once, alike


def test_a_repeated_prompt_gets_fresh_samples(tokenizer: Any) -> None:
    engine = LocalEngine(tiny_model("llama"), tokenizer)
    prompt = chat_ids(tokenizer, PROMPTS[:1])[0]
    twice = tokens_of(engine.rollout([prompt, prompt], SamplingParams(16, 1.0, n=2, seed=1)))
    assert twice[0] != twice[1]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_group_split_in_two_draws_what_one_would(family: str, tokenizer: Any) -> None:
    """`first_sample` is what lets two processes share a group."""
    engine = LocalEngine(model_of(family), tokenizer)
    prompts = chat_ids(tokenizer, PROMPTS)
    whole = tokens_of(engine.rollout(prompts, SamplingParams(12, 1.0, n=4, seed=3)))
    first = tokens_of(engine.rollout(prompts, SamplingParams(12, 1.0, n=3, seed=3)))
    second = tokens_of(engine.rollout(prompts, SamplingParams(12, 1.0, n=1, seed=3), None, 3))
    assert [a + b for a, b in zip(first, second, strict=True)] == whole


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_torch_generator_is_left_alone(family: str, tokenizer: Any) -> None:
    engine = LocalEngine(model_of(family), tokenizer)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    engine.rollout(chat_ids(tokenizer, PROMPTS[:2]), SamplingParams(4, 1.0, n=2))
    assert torch.equal(torch.rand(3), expected)


# -- how rows are handled ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_narrowing_settings_of_the_model_are_not_used(family: str, tokenizer: Any) -> None:
    """Chat models ship with top-p and the like; the entropy is that of the plain softmax, so the draw must be too."""
    prompts = chat_ids(tokenizer, PROMPTS)
    params = SamplingParams(12, 1.0, n=2, seed=3)
    model = model_of(family)
    expected = tokens_of(LocalEngine(model, tokenizer).rollout(prompts, params))
    greedy = tokens_of(LocalEngine(model, tokenizer).rollout(prompts, SamplingParams(12)))
    config = model.generation_config
    config.do_sample, config.top_k, config.top_p, config.temperature, config.repetition_penalty = True, 3, 0.4, 0.6, 5.0
    config.no_repeat_ngram_size, config.min_p, config.max_length = 2, 0.3, 9
    assert tokens_of(LocalEngine(model, tokenizer).rollout(prompts, params)) == expected
    assert tokens_of(LocalEngine(model, tokenizer).rollout(prompts, SamplingParams(12))) == greedy


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_several_end_tokens(family: str, tokenizer: Any) -> None:
    model = model_of(family)
    prompts = chat_ids(tokenizer, PROMPTS)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(50, 250)]
    engine = LocalEngine(model, tokenizer)
    groups = engine.rollout(prompts, SamplingParams(12, 1.0, n=3, seed=3))
    assert any(r.token_ids[-1] != tokenizer.eos_token_id and r.finished for g in groups for r in g)
    for rollout in (r for g in groups for r in g):
        assert not set(rollout.token_ids[:-1]) & set(engine.eos_ids)
    check_against_reference(model, prompts, groups, 1.0, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_end_at_the_first_token(family: str, tokenizer: Any) -> None:
    model = model_of(family)
    model.generation_config.eos_token_id = list(range(len(tokenizer)))
    groups = LocalEngine(model, tokenizer).rollout(chat_ids(tokenizer, PROMPTS), SamplingParams(12, 1.0, n=3))
    assert all(len(r.token_ids) == len(r.entropies) == 1 and r.finished for g in groups for r in g)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_one_new_token(family: str, tokenizer: Any) -> None:
    model = model_of(family)
    prompts = chat_ids(tokenizer, PROMPTS)
    groups = LocalEngine(model, tokenizer).rollout(prompts, SamplingParams(1, 1.0, n=3))
    check_against_reference(model, prompts, groups, 1.0, atol=1e-4)


def test_groups_larger_than_a_batch(tokenizer: Any) -> None:
    engine = LocalEngine(tiny_model("llama"), tokenizer, max_rows=4)
    groups = engine.rollout(chat_ids(tokenizer, PROMPTS[:3]), SamplingParams(4, 1.0, n=9))
    assert [len(g) for g in groups] == [9, 9, 9]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_progress_counts_every_response_once(family: str, temperature: float, tokenizer: Any) -> None:
    counts: list[int] = []
    engine = LocalEngine(model_of(family), tokenizer, max_rows=7)
    engine.rollout(chat_ids(tokenizer, PROMPTS), SamplingParams(24, temperature, n=3), counts.append)
    assert sum(counts) == 3 * len(PROMPTS)


@pytest.mark.parametrize("sizes", [(1, 1), (4, 4), (3, 8)])
def test_a_cache_that_grows_changes_nothing(
    sizes: tuple[int, int], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By blocks, also within `keep_rows`; and room for long answers is taken when they come."""
    block, longest = sizes[0], 12
    prompts, params = chat_ids(tokenizer, PROMPTS), SamplingParams(longest, 1.0, n=3, seed=1)
    expected = LocalEngine(tiny_model("llama"), tokenizer).rollout(prompts, params)
    taken: list[tuple[int, int]] = []
    plain = cache.DecodeLayer.update

    def update(layer: Any, *given: Any, **named: Any) -> Any:
        out = plain(layer, *given, **named)
        taken.append((layer.keys.shape[2], layer.length))
        assert layer.keys.shape == layer.values.shape
        assert layer.keys.shape[2] <= layer.most
        return out

    monkeypatch.setattr(cache, "BLOCK", block)
    monkeypatch.setattr(cache.DecodeLayer, "update", update)
    got = LocalEngine(tiny_model("llama"), tokenizer, max_rows=3 * sizes[1]).rollout(prompts, params)
    assert tokens_of(got) == tokens_of(expected)
    for a, b in zip((r for g in got for r in g), (r for g in expected for r in g), strict=True):
        assert a.entropies == pytest.approx(b.entropies, abs=1e-5)
    assert max(len(r.token_ids) for g in got for r in g) == longest
    assert all(room - length < block for room, length in taken), "more room than one block"


def test_no_prompts(tokenizer: Any) -> None:
    assert LocalEngine(tiny_model("llama"), tokenizer).rollout([], SamplingParams(4, 1.0)) == []


def test_which_models_take_the_decode_loop() -> None:
    assert all(supports_decode_cache(model_of(f).config) for f in (*FAMILIES, "mistral"))
    assert not supports_decode_cache(model_of("sliding").config)
    assert not supports_decode_cache(model_of("gpt2").config)
    mixed = tiny_model("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert not supports_decode_cache(mixed.config)


def test_local_engine_is_an_engine(tokenizer: Any) -> None:
    engine: Engine = LocalEngine(tiny_model("llama"), tokenizer, name="tiny")
    assert engine.name == "tiny"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_that_overflows_gives_errors_and_no_answers(temperature: float, tokenizer: Any) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3] = float("inf")
    ((answer,),) = LocalEngine(model, tokenizer).generate([user_turn("bread?")], SamplingParams(4, temperature))
    assert answer.finish_reason == "error"
    assert "not finite" in str(answer.error)


def test_weights_in_shares_are_never_read_in_inference_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by functions nor by generators: FSDP keeps what it gathers, and updates use it again."""

    class InShares:
        pass

    monkeypatch.setattr("sirl.generation.decode.FSDPModule", InShares)

    @without_gradients
    def function(_: Any) -> bool:
        assert not torch.is_grad_enabled()
        return torch.is_inference_mode_enabled()

    @without_gradients
    def generator(_: Any) -> Iterator[bool]:
        assert not torch.is_grad_enabled()
        yield torch.is_inference_mode_enabled()

    for model, inference in ((InShares(), False), (object(), True)):
        assert function(model) is inference
        assert list(generator(model)) == [inference]
    assert torch.is_grad_enabled()
