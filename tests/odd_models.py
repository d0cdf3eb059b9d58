"""Tiny models as people have them: each function changes a copy of the plain one in a way that is met in the field."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tiny_models import TEMPLATE, tiny_config, tiny_model, tiny_tokenizer

Change = Callable[[Path], Path]
"""Changes a model folder, and returns what is given as the model's name."""


def edit(path: Path, **values: Any) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def save(folder: Path, model: Any = None, tokenizer: Any = None, **kwargs: Any) -> Path:
    """A model folder of these, made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    (model or tiny_model()).save_pretrained(folder, **kwargs)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return folder


def retokenised(folder: Path, tokenizer: Any) -> Path:
    """The folder with another tokenizer."""
    for name in ("chat_template.jinja", "tokenizer_config.json", "tokenizer.json"):
        (folder / name).unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    return folder


def adapter(folder: Path, base: str, config: Any, model: Any = None) -> Path:
    """An adapter folder next to nothing else, on a base of that name."""
    from peft import get_peft_model

    torch.manual_seed(0)
    get_peft_model(model or tiny_model(), config).save_pretrained(folder)
    edit(folder / "adapter_config.json", base_model_name_or_path=base)
    return folder


def lora(**settings: Any) -> Any:
    """LoRA whose B is not 0."""
    from peft import LoraConfig

    return LoraConfig(**{"r": 4, "target_modules": "all-linear", "init_lora_weights": False, **settings})


def in_hub_cache(cache: Path, hub_id: str, folder: Path) -> str:
    """A copy of a folder where huggingface_hub keeps what it has downloaded; returns the hub id."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(folder, repository / "snapshots" / commit)
    return hub_id


# -- models that work --------------------------------------------------------------------------------------------------


def no_pad_token(folder: Path) -> Path:
    """Mistral: neither a pad token nor one that is reserved for padding."""
    tokenizer = tiny_tokenizer()
    raw = json.loads(tokenizer.backend_tokenizer.to_str().replace("<|pad|>", "<|reserved_7|>"))
    return retokenised(folder, with_raw(raw))


def llama_pad_token(folder: Path) -> Path:
    """Llama 3.1: no pad token, and a token of the name `<|finetune_right_pad_id|>`."""
    raw = json.loads(tiny_tokenizer().backend_tokenizer.to_str().replace("<|pad|>", "<|finetune_right_pad_id|>"))
    return retokenised(folder, with_raw(raw))


def pad_token_beyond_the_embedding(folder: Path) -> Path:
    """`[PAD]` was added to the tokenizer, and the embedding not resized."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    edit(folder / "config.json", pad_token_id=tokenizer.pad_token_id)
    return retokenised(folder, tokenizer)


def negative_pad_token(folder: Path) -> Path:
    """As the first Llama had it."""
    edit(folder / "config.json", pad_token_id=-1)
    return folder


def sampling_without_do_sample(folder: Path) -> Path:
    """Vicuna, Llama 2 and many others."""
    (folder / "generation_config.json").write_text('{"eos_token_id": 2, "temperature": 0.9, "top_p": 0.6}')
    return no_pad_token(folder)


def sentencepiece(folder: Path) -> Path:
    """Llama 2, Mistral, Gemma: `▁` for spaces, and a token for each byte."""
    return save(folder, tiny_model(vocab_size=len(sentencepiece_tokenizer())), sentencepiece_tokenizer())


def no_system_role(folder: Path) -> Path:
    """Gemma 2."""
    tokenizer = tiny_tokenizer()
    refusal = "{{ raise_exception('System role not supported') }}"
    tokenizer.chat_template = f"{{% if messages[0]['role'] == 'system' %}}{refusal}{{% endif %}}{TEMPLATE}"
    return retokenised(folder, tokenizer)


def thinks(folder: Path) -> Path:
    """Qwen3: the template lets the model think, unless it is told not to."""
    tokenizer = tiny_tokenizer()
    closed = "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n' }}{% endif %}"
    tokenizer.chat_template = TEMPLATE + "{% if add_generation_prompt %}" + closed + "{% endif %}"
    return retokenised(folder, tokenizer)


def sharded(folder: Path) -> Path:
    """Weights in several files with an index."""
    return save(folder, max_shard_size="50KB")


def adapter_folder(folder: Path) -> Path:
    """LoRA on the folder."""
    return adapter(folder.with_name("adapter"), str(folder), lora())


def adapter_on_adapter(folder: Path) -> Path:
    """LoRA on a folder that is LoRA."""
    return adapter(folder.with_name("second"), str(adapter_folder(folder)), lora())


def adapter_on_a_tied_head(folder: Path) -> Path:
    """LoRA with the head among its targets, on a model whose head is its embedding."""
    model = tied_model()
    save(folder, model)
    return adapter(folder.with_name("adapter"), str(folder), lora(target_modules=["q_proj", "lm_head"]), tied_model())


def tied_model() -> Any:
    """A tiny Llama whose head is its embedding."""
    return tiny_model(tie_word_embeddings=True)


# -- models that cannot be used ----------------------------------------------------------------------------------------


def pickled(folder: Path) -> Path:
    """Weights as pytorch_model.bin alone."""
    torch.save(tiny_model().state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def missing_shard(folder: Path) -> Path:
    """A download that was stopped."""
    sorted(sharded(folder).glob("model-*.safetensors"))[1].unlink()
    return folder


def no_weights(folder: Path) -> Path:
    """Only the small files."""
    (folder / "model.safetensors").unlink()
    return folder


def quantised(folder: Path) -> Path:
    """bitsandbytes, as Unsloth saves it."""
    edit(folder / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    return folder


def adapter_on_quantised(folder: Path) -> Path:
    """What Unsloth makes."""
    return adapter(folder.with_name("adapter"), str(quantised(folder)), lora())


def adapter_on_quantised_hub_id(folder: Path) -> Path:
    """The same with a base that cannot be reached."""
    return adapter(folder.with_name("adapter"), "unsloth/Llama-3.2-1B-Instruct-bnb-4bit", lora())


def prompt_tuning(folder: Path) -> Path:
    """Virtual tokens before the prompt."""
    from peft import PromptTuningConfig

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    return adapter(folder.with_name("adapter"), str(folder), config)


def prefix_tuning(folder: Path) -> Path:
    """Virtual keys and values in every layer."""
    from peft import PrefixTuningConfig

    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    return adapter(folder.with_name("adapter"), str(folder), config)


def adapter_of_the_future(folder: Path) -> Path:
    """A type that this version of PEFT does not know."""
    edit(adapter_folder(folder) / "adapter_config.json", peft_type="HYPERLORA")
    return folder.with_name("adapter")


def adapter_of_a_deeper_model(folder: Path) -> Path:
    """Of a model of the same family with more layers: half of it would be left out without a word."""
    deeper = tiny_model(num_hidden_layers=4)
    return adapter(folder.with_name("adapter"), str(folder), lora(), deeper)


def adapter_of_a_shallower_model(folder: Path) -> Path:
    """The other way round: what it lacks would be made up."""
    shallower = tiny_model(num_hidden_layers=1)
    return adapter(folder.with_name("adapter"), str(folder), lora(target_modules=["q_proj"]), shallower)


def template_for_parts_alone(folder: Path) -> Path:
    """LLaVA and others: contents are lists of parts, and a plain text is left out."""
    tokenizer = tiny_tokenizer()
    parts = "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    tokenizer.chat_template = TEMPLATE.replace("+ m['content'] }}", "}}" + parts)
    return retokenised(folder, tokenizer)


def newer_tokenizer(folder: Path) -> Path:
    """A tokenizer.json of a newer library."""
    edit(folder / "tokenizer.json", model={"type": "FutureBPE", "vocab": {}})
    return folder


def no_tokenizer(folder: Path) -> Path:
    """The trainer saved the model and not the tokenizer."""
    for name in ("chat_template.jinja", "tokenizer_config.json", "tokenizer.json"):
        (folder / name).unlink()
    return folder


def no_chat_template(folder: Path) -> Path:
    """A base model."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    return retokenised(folder, tokenizer)


def no_end_token(folder: Path) -> Path:
    """A tokenizer that ends nothing."""
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    return retokenised(folder, tokenizer)


def smaller_vocabulary(folder: Path) -> Path:
    """The embedding was resized, and config.json kept the old size."""
    edit(folder / "config.json", vocab_size=len(tiny_tokenizer()) - 1)
    return folder


def larger_tokenizer(folder: Path) -> Path:
    """Tokens of the chat template were added to the tokenizer, and the embedding not resized."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = TEMPLATE.replace("<|start|>", "<|im_start|>")
    return retokenised(folder, tokenizer)


def tokenizer_of_another_model(folder: Path) -> Path:
    """Its ordinary tokens go beyond the embedding."""
    return save(folder, tiny_model(vocab_size=200))


def unknown_type(folder: Path) -> Path:
    """A model that is newer than transformers."""
    edit(folder / "config.json", model_type="llama9")
    return folder


def custom_code(folder: Path) -> Path:
    """Code in the repository, without which nothing is known of the model."""
    edit(folder / "config.json", model_type="mine", auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"})
    return folder


def encoder_decoder(folder: Path) -> Path:
    """T5."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=300, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return save(folder, T5ForConditionalGeneration(config))


def masked_lm(folder: Path) -> Path:
    """BERT."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    return save(folder, BertForMaskedLM(config))


def reward_model(folder: Path) -> Path:
    """A model of the right family with another head."""
    from transformers import LlamaForSequenceClassification

    return save(folder, LlamaForSequenceClassification(tiny_config("llama", 300, tie_word_embeddings=True)))


def headless(folder: Path) -> Path:
    """Saved without its head: transformers would make one up."""
    model = tiny_model()
    weights = {name: weight for name, weight in model.state_dict().items() if "lm_head" not in name}
    return save(folder, _Saves(model, weights))


def weights_file(folder: Path) -> Path:
    """The file in place of the folder."""
    return folder / "model.safetensors"


def gguf_file(folder: Path) -> Path:
    """As llama.cpp has it."""
    (folder / "tiny.Q4_K_M.gguf").write_bytes(b"GGUF")
    return folder / "tiny.Q4_K_M.gguf"


def gguf_folder(folder: Path) -> Path:
    """A folder of nothing but GGUF."""
    shutil.rmtree(folder)
    folder.mkdir()
    return gguf_file(folder).parent


class _Saves:
    """A model that saves other weights than its own."""

    def __init__(self, model: Any, weights: dict[str, Any]) -> None:
        self.model, self.weights = model, weights

    def save_pretrained(self, folder: Path) -> None:
        self.model.save_pretrained(folder, state_dict=self.weights)


# -- tokenizers --------------------------------------------------------------------------------------------------------


def with_raw(raw: dict[str, Any]) -> Any:
    """The tiny tokenizer without a pad token, with another inside."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(raw)), eos_token="<|end|>", chat_template=TEMPLATE
    )


def sentencepiece_tokenizer() -> Any:
    """BPE with `▁` for spaces and byte fallback, as Llama 2 has it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    from tiny_models import SENTENCES

    special = ["<unk>", "<s>", "<|end|>", "<|start|>"]
    raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special + bytes_, show_progress=False)
    raw.train_from_iterator([s.replace(" ", "▁") for s in SENTENCES], trainer)
    state = json.loads(raw.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        eos_token="<|end|>",
        unk_token="<unk>",
        chat_template=TEMPLATE,
    )
