"""Conversations in, completions out: templates, display tokens, batching and loading."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sirl.chat.encoding import encode_chat
from sirl.errors import UserError
from sirl.generation import SamplingParams, load_engine
from sirl.generation.decode import PREFILL_TOKENS, collect, left_pad, plan_batches, prefill_chunks, uniforms_for
from sirl.generation.local import LocalEngine, eos_token_ids
from sirl.records import Conversation, Message
from tiny_models import PROMPTS, reference_scores, tiny_model, tiny_tokenizer


def user(text: str) -> Conversation:
    return (Message(role="user", content=text),)


# -- templates ---------------------------------------------------------------------------------------------------------


def test_encode_chat_opens_the_assistant_turn(tokenizer: Any) -> None:
    ids = encode_chat(tokenizer, user("How do I bake bread?"))
    assert tokenizer.decode(ids) == "<|start|>user\nHow do I bake bread?<|end|>\n<|start|>assistant\n"
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|start|>"), "special tokens are tokens, not text"


def test_encode_chat_goes_on_from_a_prefill(tokenizer: Any) -> None:
    conversation = (*user("How?"), Message(role="assistant", content="Sure, here"))
    assert tokenizer.decode(encode_chat(tokenizer, conversation)).endswith("<|start|>assistant\nSure, here")


def test_encode_chat_does_not_add_special_tokens_twice() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    plain = encode_chat(tokenizer, user("Hi"))
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<|pad|> $A", special_tokens=[("<|pad|>", 0)])
    assert tokenizer("Hi")["input_ids"][0] == 0  # a tokenizer that begins every text, as Llama's does
    assert encode_chat(tokenizer, user("Hi")) == plain


def test_eos_token_ids(tokenizer: Any) -> None:
    model = tiny_model("llama")
    for configured, expected in ((2, [2]), ([7, 2], [7, 2]), ([7], [7, 2]), (None, [2])):
        model.generation_config.eos_token_id = configured
        assert eos_token_ids(model, tokenizer) == expected


def test_no_end_token_anywhere() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    model.generation_config.eos_token_id = tokenizer.eos_token = None
    with pytest.raises(UserError, match="end-of-sequence"):
        eos_token_ids(model, tokenizer)


# -- completions -------------------------------------------------------------------------------------------------------


def test_completions(tokenizer: Any) -> None:
    model = tiny_model("qwen2")
    engine = LocalEngine(model, tokenizer)
    params = SamplingParams(max_new_tokens=12, temperature=0.7, n=3, seed=4)
    groups = engine.generate([user(p) for p in PROMPTS], params)
    assert [len(g) for g in groups] == [3] * len(PROMPTS)
    reasons = set()
    for text, group in zip(PROMPTS, groups, strict=True):
        for completion in group:
            assert completion.error is None
            assert len(completion.tokens) == len(completion.token_ids) == len(completion.entropies)
            ended = completion.token_ids[-1] == tokenizer.eos_token_id
            assert completion.finish_reason == ("stop" if ended else "length")
            assert "<|end|>" not in completion.text
            assert (completion.tokens[-1] == "<|end|>") == ended, "the end-of-turn token is shown where it was drawn"
            entropies, _ = reference_scores(model, encode_chat(tokenizer, user(text)), completion.token_ids, 0.7)
            assert completion.mean_entropy == pytest.approx(float(entropies.mean()), abs=1e-4)
            reasons.add(completion.finish_reason)
    assert reasons == {"stop", "length"}


def test_generate_is_the_same_again(tokenizer: Any) -> None:
    params = SamplingParams(max_new_tokens=8, temperature=1.0, n=2, seed=4)
    engine = LocalEngine(tiny_model("llama"), tokenizer)
    conversations = [user(p) for p in PROMPTS]
    assert engine.generate(conversations, params) == engine.generate(conversations, params)


def test_greedy_and_sampled_together(tokenizer: Any) -> None:
    """The greedy answer first; what cannot be asked is as many errors, and progress counts every answer."""
    engine, told = LocalEngine(tiny_model("llama"), tokenizer), []
    texts = ("Tell me a story.", "half of a pair: \ud83d", "How are you?")
    chats = [({"role": "user", "content": text},) for text in texts]
    params = SamplingParams(max_new_tokens=6, temperature=1.0, seed=2, n=2)
    both = engine.generate_both(chats, params, told.append)
    greedy, sampled = engine.generate(chats, SamplingParams(max_new_tokens=6)), engine.generate(chats, params)
    assert [[a.token_ids for a in group] for group in both] == [
        [a.token_ids for a in (*one, *more)] for one, more in zip(greedy, sampled, strict=True)
    ]
    assert [[a.finish_reason == "error" for a in group] for group in both] == [[False] * 3, [True] * 3, [False] * 3]
    assert sum(told) == 9


def test_load_engine(model_folder: Any) -> None:
    engine = load_engine(str(model_folder("llama")))
    [[completion]] = engine.generate([user("How?")], SamplingParams(max_new_tokens=3))
    assert completion.token_ids
    assert engine.name == str(model_folder("llama"))


def test_unknown_engine(model_folder: Any) -> None:
    with pytest.raises(UserError, match="--engine warp: unknown; choose from local"):
        load_engine(str(model_folder("llama")), engine="warp")


@pytest.mark.parametrize("settings", [{"max_new_tokens": 0}, {"n": 0}, {"temperature": -0.1}])
def test_invalid_sampling_parameters(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="invalid sampling parameters"):
        SamplingParams(**settings)


# -- pieces ------------------------------------------------------------------------------------------------------------


def test_plan_batches() -> None:
    prompts = [[0] * n for n in (3, 9, 1, 8, 2, 7)]

    def plan(*args: int) -> list[list[int]]:
        return [sorted(batch) for batch in plan_batches(prompts, *args)]

    # by falling length: 9 8 7 3 2 1 = prompts 1 3 5 0 4 2; two prompts of n=4 fill 8 rows
    assert plan(4, 0, 8, 1000) == [[1, 3], [0, 5], [2, 4]]
    # 2 x 9 cells are more than 17, so the first goes alone; 2 x 8 fit, then 3 + 2 + 1 fit as 3 x 3
    assert plan(1, 0, 100, 17) == [[1], [3, 5], [0, 2, 4]]
    # new tokens take room as well: 2 x (8 + 4) are more than 17, 2 x (3 + 4) fit
    assert plan(1, 4, 100, 17) == [[1], [3], [5], [0, 4], [2]]
    assert plan_batches([[0] * 50], 1, 0, 1, 10) == [[0]], "a prompt too long for the bound runs alone"
    assert plan_batches([], 1, 1, 1, 1) == []


def test_plan_batches_puts_what_begins_alike_together() -> None:
    a, b = [7] * 20, [8] * 20
    prompts = [[*a, 1], [*b, 1], [*a, 2], [*b, 2, 2], [*a, *b], [*a, 3, 3]]
    assert plan_batches(prompts, 1, 0, 10, 10_000) == [[0, 2, 5, 1, 3, 4]]


def test_prefill_chunks() -> None:
    head = list(range(100, 130))
    alike = [[*head, 1, 2], [*head, 3], [*head, 4, 5, 6]]
    assert prefill_chunks(alike) == [(range(3), 30)]
    # the whole of a prompt is never shared: its last token has to give logits
    assert prefill_chunks([head, head]) == [(range(2), 29)]
    # a long prompt would pad the short ones, so it goes alone
    assert prefill_chunks([*alike, [5] * 300]) == [(range(3), 30), (range(3, 4), 0)]
    # nothing in common, like lengths: one chunk without padding worth the name
    assert prefill_chunks([[1] * 20, [2] * 20]) == [(range(2), 0)]
    # a few first tokens are not worth a pass of their own, and a prompt of one token cannot share any
    assert prefill_chunks([[1, 2, 3, 4], [1, 2, 3, 5]]) == [(range(2), 0)]
    assert prefill_chunks([[9], [9]]) == [(range(2), 0)]
    assert prefill_chunks([]) == []
    many = [[*range(100), i] for i in range(3000)]
    chunks = prefill_chunks(many)
    assert [i for chunk, _ in chunks for i in chunk] == list(range(3000))
    assert all(len(chunk) * (101 - shared) <= PREFILL_TOKENS for chunk, shared in chunks)
    # what is shared does not count: a record of examples longer than a pass is read once
    examples = list(range(2 * PREFILL_TOKENS))
    repeated = [[*examples, i, i] for i in range(5)]
    assert prefill_chunks(repeated) == [(range(5), len(examples))]
    assert prefill_chunks(repeated, share=False) == [(range(i, i + 1), 0) for i in range(5)]
    held = 2 * len(repeated[0])
    assert [len(rows) for rows, _ in prefill_chunks(repeated, positions=held)] == [2, 2, 1]


def test_left_pad() -> None:
    ids, mask = left_pad([[5, 6, 7], [8]], pad_id=0, device="cpu")
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_collect() -> None:
    tokens = [[4, 9, -1], [4, 5, 6], [9, -1, -1], [-1, -1, -1]]
    scores = [[float(10 * r + t) for t in range(3)] for r in range(4)]
    (a, b), (c, d) = collect(tokens, [scores, scores], eos={9}, n=2)
    assert (a.token_ids, a.entropies, a.finished) == ([4, 9], [0.0, 1.0], True)
    assert (b.token_ids, b.logprobs, b.finished) == ([4, 5, 6], [10.0, 11.0, 12.0], False)
    assert (c.token_ids, c.finished) == ([9], True)
    assert (d.token_ids, d.entropies, d.finished) == ([], [], False)


def test_uniforms() -> None:
    params = SamplingParams(max_new_tokens=1000, seed=3)
    draws = uniforms_for([1, 2, 3], params, 0, 0)
    assert draws.shape == (1000,)
    assert draws.dtype == np.float32
    assert 0 <= draws.min() < 0.02
    assert 0.98 < draws.max() < 1
    others = [
        uniforms_for([1, 2, 4], params, 0, 0),
        uniforms_for([1, 2, 3], params, 1, 0),
        uniforms_for([1, 2, 3], params, 0, 1),
        uniforms_for([1, 2, 3], SamplingParams(max_new_tokens=1000, seed=4), 0, 0),
    ]
    assert np.array_equal(draws, uniforms_for([1, 2, 3], params, 0, 0))
    for other in others:
        assert abs(float(np.corrcoef(draws, other)[0, 1])) < 0.15


def test_logits_are_not_kept(tokenizer: Any) -> None:
    """A decode holds `(B, V)` of one step, not of all: the cache and these are what memory goes to."""
    model = tiny_model("gpt2")
    seen: list[torch.Size] = []
    model.register_forward_hook(lambda _module, _args, out: seen.append(out.logits.shape))
    LocalEngine(model, tokenizer).generate([user("How?")], SamplingParams(max_new_tokens=5, temperature=1.0))
    assert len(seen) == 5
    assert all(shape[1] == 1 for shape in seen)
