"""What the files of a model say before a weight is read, and one clear line where they cannot be used.

Models come as people have them: without a pad token, as an adapter, quantised, cut off, of a newer library. Each is
either made to work here or refused with what to do about it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open

from sirl.demo import DEMO
from sirl.errors import UserError

FLAG = "--model_name_or_path"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
PADDING = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<|padding|>", "<|PAD_TOKEN|>")
"""Names of tokens that are reserved for padding, in models whose tokenizer names no pad token (the first: Llama 3)."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")
QUANTISED_NAME = re.compile(r"[-_](unsloth-)?(bnb-4bit|bnb-8bit|4bit|8bit|gptq|awq|fp8|gguf)\b.*", re.IGNORECASE)
CAUSAL = re.compile(r"(CausalLM|LMHeadModel|ForConditionalGeneration)$")
"""Names of classes that write text: the same files may hold a reward model, whose head is another."""
EMBEDDINGS = ("embed_tokens.weight", "wte.weight")
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
    RecursionError,
    ArithmeticError,
    re.error,
)
"""What transformers and peft raise for a file that they can make no sense of; they check few values before use."""
LFS_POINTER = b"version https://git-lfs"
"""The beginning of what Git LFS puts where a file should be."""
LONGEST = 1000
"""Characters of a name that may be a path."""
LARGEST = {
    "num_hidden_layers": 10_000,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 22,
    "n_inner": 1 << 22,
    "vocab_size": 1 << 24,
    "num_attention_heads": 1 << 16,
    "num_key_value_heads": 1 << 16,
    "head_dim": 1 << 16,
    "max_position_embeddings": 1 << 30,
}
"""Sizes that no model exceeds, and none of which is 0. transformers would make all of its modules before it reads any
weights, or divide by them afterwards."""
SHARDS = "model.safetensors.index.json"


def read_config(name: str, revision: str | None = None) -> Any:
    """The configuration of a model folder or hub id, of a causal LM whose weights can be read and trained.

    A pad token id that its embedding does not hold is left out: torch would refuse it, or take another row for it.

    Raises:
        UserError: no such model, not one that sirl can use, or files of it are missing.
    """
    from transformers import AutoConfig

    check_name(name)
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except UNREADABLE as error:
        raise cannot_load(name, error) from error
    _check_kind(name, config)
    for key, most in LARGEST.items():
        size = getattr(config.get_text_config(), key, None)
        for one in size if isinstance(size, list | tuple) else [] if size is None else [size]:  # some have one a layer
            if not isinstance(one, int) or isinstance(one, bool) or not 1 <= one <= most:
                raise UserError(
                    f"{FLAG} {name}: config.json has {key} {str(one)[:40]}; correct it: a whole number from 1 to {most}"
                )
    if Path(name).is_dir():
        _check_weights(Path(name))
        _check_embedding(Path(name), config)
    text = config.get_text_config()
    pad, size = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    if pad is not None and size is not None and not 0 <= pad < size:
        text.pad_token_id = None
    return config


def check_name(name: str) -> None:
    """Raise `UserError` for a path that is no model folder."""
    if not name.isprintable() or len(name) > LONGEST:
        raise UserError(f"{FLAG} {name[:80]!r}: is not the name of a model; give a model folder, a hub id or `{DEMO}`")
    path = Path(name).expanduser()
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if path.is_file():
        raise UserError(f"{FLAG} {name}: is a file; give its folder")
    if path.is_dir() and not any((path / f).exists() for f in ("config.json", "adapter_config.json")):
        packed = next(iter(sorted(path.glob("*.gguf"))), None)
        what = f"the file itself, {packed}" if packed else "a transformers model folder or a hub id"
        raise UserError(f"{FLAG} {name}: the folder holds no config.json; give {what}")
    if looks_local and not path.exists():
        raise UserError(f"{FLAG} {name}: no such folder; give a model folder, a hub id (org/name) or `{DEMO}`")


def read_tokenizer(name: str, revision: str | None = None, config: Any = None) -> Any:
    """`AutoTokenizer.from_pretrained` without remote code; `config` is that of the model where `name` holds none.

    Raises:
        UserError: there is none, or this version of tokenizers cannot read it.
    """
    from transformers import AutoTokenizer

    folder = Path(name)
    if folder.is_dir() and not any((folder / file).exists() for file in TOKENIZER_FILES):
        # transformers would make one up
        raise UserError(f"{FLAG} {name}: the folder holds no tokenizer; put {TOKENIZER_FILES[0]} of the model into it")
    try:
        return AutoTokenizer.from_pretrained(name, config=config, revision=revision, trust_remote_code=False)
    except UNREADABLE as error:
        raise cannot_load(name, error) from error
    except Exception as error:
        if type(error) is not Exception:  # what tokenizers raises for a file that it cannot read
            raise
        raise UserError(
            f"{FLAG} {name}: its tokenizer.json cannot be read ({first_line(error)}); it may be of a newer version: "
            "pip install -U tokenizers transformers"
        ) from error


def choose_padding(tokenizer: Any, vocab_size: int | None = None) -> None:
    """Give a tokenizer a pad token out of its own vocabulary, where it has none that the embedding holds.

    A token that is reserved for padding, else the end-of-sequence token. Any would do, as attention masks hide padding
    everywhere. `borrowed_padding` on the tokenizer notes it, so that the saved one is as the original.
    """
    pad = tokenizer.pad_token_id
    if pad is not None and (vocab_size is None or pad < vocab_size):
        return
    known = tokenizer.get_vocab()
    for token in (*PADDING, tokenizer.eos_token):
        if token in known and (vocab_size is None or known[token] < vocab_size):
            tokenizer.borrowed_padding = {"token": token, "before": tokenizer.pad_token}
            tokenizer.pad_token = token
            return


def check_vocabulary(tokenizer: Any, name: str, vocab_size: int) -> None:
    """Raise `UserError` where a tokenizer writes tokens that the embedding of its model does not hold.

    Added tokens beyond it are common (Gemma 3 has one for images) and do no harm while no chat holds them.
    """
    added = set(tokenizer.get_added_vocab())
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= vocab_size}
    template = str(tokenizer.chat_template or "")
    ends = (tokenizer.bos_token, tokenizer.eos_token)
    used = [token for token in beyond if token not in added or token in ends or token in template]
    if used:
        raise UserError(
            f"{FLAG} {name}: the tokenizer has tokens that the model's embedding of {vocab_size} does not hold "
            f"({used[0]!r} is {beyond[used[0]]}); take the tokenizer of this model, or resize its embedding"
        )


def cannot_load(name: str, error: BaseException) -> UserError:
    """One line for what a library raised while it read a model, with what to do about the commonest."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text or "custom code" in text:
        return UserError(
            f"{FLAG} {name}: needs its own code (auto_map in config.json), which sirl never runs; give a model that "
            "transformers supports without it"
        )
    unknown = re.search(r"has model type `?([^`]*?)`? but Transformers does not recognize", text)
    if unknown:
        from transformers import __version__

        return UserError(
            f"{FLAG} {name}: transformers {__version__} knows no model type {unknown[1]!r}; a newer one may: "
            "pip install -U transformers"
        )
    if not Path(name).is_dir() and "model.safetensors" in text:
        return UserError(
            f"{FLAG} {name}: has no weights in safetensors, and sirl reads nothing else; if it has pytorch_model.bin, "
            f"convert it: {convert_command(name)}"
        )
    if Path(name).is_dir():
        return UserError(
            f"{FLAG} {name}: cannot be loaded ({first_line(error)}); a file of it is missing, damaged or of another "
            "version of transformers"
        )
    return UserError(
        f"{FLAG} {name}: cannot be loaded; give a transformers model folder, a reachable hub id (org/name) or "
        f"`{DEMO}` ({first_line(error)})"
    )


def first_line(error: BaseException) -> str:
    """The beginning of an exception's text, without line breaks."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyError | TypeError | AttributeError) or not text:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text[:160]


def _check_kind(name: str, config: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    method = quantisation(config.to_dict())
    if method:
        raise UserError(
            f"{FLAG} {name}: its weights are quantised ({method}), and sirl must change them; give the unquantised "
            f"model{unquantised(name)}, or ask it behind --engine vllm or a server"
        )
    named = config.architectures
    kinds = named if isinstance(named, list | tuple) else [named] if named else []
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not getattr(config, "is_encoder_decoder", False)
    if not causal or (kinds and not any(CAUSAL.search(str(kind)) for kind in kinds)):
        raise UserError(
            f"{FLAG} {name}: is not a causal language model ({', '.join(map(str, kinds)) or config.model_type}); "
            "give a decoder-only chat model, such as Qwen/Qwen2.5-3B-Instruct"
        )


def _check_weights(folder: Path) -> None:
    """That the files of the weights are there, which transformers finds out one by one, after minutes of reading."""
    index = folder / SHARDS
    for path in (*sorted(folder.glob("*.safetensors")), folder / "tokenizer.json"):
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(LFS_POINTER):
            raise UserError(
                f"{FLAG} {folder}: {path.name} is a pointer of Git LFS, not the file; run git lfs pull there"
            )
    if (folder / "model.safetensors").exists():
        return
    if index.is_file():
        try:
            named = sorted({str(file) for file in json.loads(index.read_text("utf-8"))["weight_map"].values()})
        except (ValueError, LookupError, TypeError, AttributeError):
            raise UserError(f"{FLAG} {folder}: {SHARDS} cannot be read; get the model again") from None
        missing = [file for file in named if not (folder / file).exists()]
        if missing:
            raise UserError(
                f"{FLAG} {folder}: {len(missing)} of {len(named)} files of its weights are missing ({missing[0]}); get "
                "the model again"
            )
    elif pickled := sorted(folder.glob("pytorch_model*.bin*")):
        raise UserError(
            f"{FLAG} {folder}: its weights are in {pickled[0].name}, and sirl reads safetensors only; convert them: "
            f"{convert_command(str(folder))}"
        )


def _check_embedding(folder: Path, config: Any) -> None:
    """That the embedding is as large as config.json says: where a vocabulary was resized, it may not be."""
    path = folder / "model.safetensors"
    size = getattr(config.get_text_config(), "vocab_size", None)
    if size is None or not path.is_file():
        return
    try:
        with safe_open(path, framework="pt") as weights:
            found = next((key for key in weights.keys() if key.endswith(EMBEDDINGS)), None)  # noqa: SIM118
            rows = weights.get_slice(found).get_shape()[0] if found else size
    except (OSError, SafetensorError):  # who reads the weights says so
        return
    if rows != size:
        raise UserError(
            f"{FLAG} {folder}: its weights do not fit its config.json ({found} has {rows} rows, vocab_size is {size}); "
            "correct vocab_size in config.json"
        )


def convert_command(name: str) -> str:
    """The command that writes a model of pickled weights as safetensors."""
    target = f"{os.path.basename(name.rstrip('/'))}-safetensors"
    return (
        'python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
        f"M.from_pretrained('{name}', use_safetensors=False).save_pretrained('{target}'); "
        f"T.from_pretrained('{name}').save_pretrained('{target}')\""
    )


def quantisation(config: dict[str, Any]) -> str | None:
    """The method of a `quantization_config`, at the top or in the part for text."""
    for part in (config, config.get("text_config") or {}):
        part = part if isinstance(part, dict) else {}
        found = part.get("quantization_config") or part.get("compression_config")
        if found:
            method = found.get("quant_method") if isinstance(found, dict) else None
            return str(getattr(method, "value", method) or "unknown method")
    return None


def unquantised(name: str) -> str:
    """A guess at the name of the unquantised model, by what such names end in."""
    plain = QUANTISED_NAME.sub("", name)
    return f", by its name {plain}" if plain != name and HUB_ID.fullmatch(name) else ""
