"""Tiny chat models and a tokenizer made from nothing: seconds to build, no network, every part real.

Random weights make every next token about equally likely, so no response would be more certain than another. These
models have a sharpened output layer, and end their turn now and then (`eos_bias`), so that entropies, lengths and
truncation differ between responses as they do in a real model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

FAMILIES = ("llama", "qwen2", "qwen3")

TEMPLATE = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] }}"
    "{% if not loop.last or m['role'] != 'assistant' or not continue_final_message %}{{ '<|end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)

SENTENCES = (
    "How do I bake a loaf of bread at home?",
    "Tell me a short story about a lighthouse and the sea.",
    "What is the capital of France, and how large is it?",
    "I cannot help with that request, but here is something else.",
    "Write three tips for growing tomatoes on a balcony.",
    "Sure, here is the answer to your question about the weather.",
)

PROMPTS = (
    "How do I bake bread?",
    "Tell me a short story about the sea, a lighthouse, and three tomatoes on a balcony at home.",
    "What is the capital of France?",
    "Write a tip.",
    "How large is it?",
    "Here is something else about the weather, and the answer to your question: how do I help?",
    "Tell me about bread and the request of the weather.",
    "Growing tomatoes?",
)


@lru_cache(maxsize=1)
def _raw_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<|pad|>", "<|start|>", "<|end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return raw.to_str()


def tiny_tokenizer() -> Any:
    """Byte-level BPE with a chat template; `<|end|>` ends a turn and `<|pad|>` is another token."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_raw_tokenizer()),
        pad_token="<|pad|>",
        eos_token="<|end|>",
        chat_template=TEMPLATE,
        padding_side="left",
    )


def tiny_config(family: str, vocab_size: int, **overrides: Any) -> Any:
    """Two layers, four query heads on two key heads."""
    from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

    if family == "gpt2":
        return GPT2Config(vocab_size=vocab_size, n_embd=32, n_layer=2, n_head=4, n_positions=256, **overrides)
    kinds = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config, "mistral": MistralConfig}
    shape = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    }
    return kinds[family](**{**shape, **overrides})


def tiny_model(
    family: str = "llama",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    sharpness: float = 3.0,
    eos_bias: float = 9.0,
    **overrides: Any,
) -> Any:
    """A causal LM in evaluation mode whose entropies differ from token to token.

    `sharpness` is the spread of its logits, `eos_bias` what is added to the logit that ends a turn.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = tiny_tokenizer()
    vocab = overrides.pop("vocab_size", len(tokenizer))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(family, vocab, **overrides), dtype=torch.float32)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim == 2 and "lm_head" not in name:
                    weight.normal_(std=0.3)
                    if name.endswith(("o_proj.weight", "down_proj.weight")):
                        weight[0] = 0.0
                elif name.endswith("bias"):
                    weight.normal_(std=0.1)
            head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
            if head is not embedding:
                head.normal_(std=sharpness / 32**0.5)
                # Hidden unit 0 is the same everywhere, as no layer writes to it: it serves as a bias.
                embedding[:, 0] = 3.0
                head[:, 0] = 0.0
                head[tokenizer.eos_token_id, 0] = eos_bias
                head[tokenizer.pad_token_id] = 0.0
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    for parameter in model.parameters():  # not buffers: the frequencies of rotary embeddings are float32 in every model
        parameter.data = parameter.data.to(dtype)
    return model.eval()


def chat_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of one-turn conversations, as every stage encodes them."""
    from sirl.chat.encoding import encode_chat

    return [encode_chat(tokenizer, ({"role": "user", "content": text},)) for text in texts]


@torch.no_grad()
def reference_scores(
    model: Any, prompt: Sequence[int], completion: Sequence[int], temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Entropies and log-probabilities `(T,)` in float64 by one plain forward: no padding, no cache, full logits."""
    ids = torch.tensor([[*prompt, *completion]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].double() / temperature
    logprobs = logits.log_softmax(-1)
    entropies = -(logprobs.exp() * logprobs).sum(-1)
    return entropies, logprobs.gather(-1, torch.tensor(completion)[:, None]).squeeze(-1)
