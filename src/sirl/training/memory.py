"""What a training will need of memory, by arithmetic, and what there is: said before hours of work, not after.

Of one process, in bytes. Counted are the tensors that are large: weights, the reference model, gradients, optimizer
states, keys and values of rollouts, activations (those of retention and pairs as well, where they are kept until the
same backward pass), logits where they are made for a whole micro-batch. Not counted are fragments, workspaces and what
a library keeps for itself, for which `OVERHEAD` stands. No weight is read: parameters are counted on torch's meta
device.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import PartialState

from sirl.demo import demo_scale
from sirl.errors import UserError
from sirl.generation.memory import CACHE_BYTES
from sirl.models import default_dtype
from sirl.models.adapters import adapter_file, base_of, base_revision
from sirl.prompts import load_prompts
from sirl.training.policy_mixin import GivesBackMemory
from sirl.training.sharding import loaded_whole, sharded
from sirl.weights.model_files import UNREADABLE, cannot_load, read_config
from sirl.weights.origin import located

log = logging.getLogger(__name__)

OVERHEAD = 10**9
"""Python, torch, its kernels and workspaces."""
LAID_OUT = 4 << 30
"""Models up to this size are held a second time by rollouts on a CPU, see `sirl.generation.cpu_decoder`."""
WRAPPING = 30
"""Tokens that a training wrapping puts around a request, about."""
SAMPLE, BYTES_A_TOKEN, FRAME = 256, 3.5, 8
"""Prompts whose lengths are looked at, bytes of text that make a token, tokens that a template puts around a turn."""
STATES = {"adam": 2, "lion": 1, "rmsprop": 1, "adagrad": 1, "adafactor": 0, "sgd": 0}
"""Numbers that an optimizer keeps for each trained one, by what its name holds; of 8 bits where it says so."""
SHRINK = (
    "--use_peft, a smaller --per_device_train_batch_size (with more --gradient_accumulation_steps), "
    "--gradient_checkpointing, --beta 0 or a shorter --max_completion_length take less"
)


@dataclass(frozen=True)
class ModelSize:
    """The figures of a causal LM that memory depends on. `trained` are the parameters that an update changes."""

    parameters: int
    trained: int
    layers: int
    width: int
    inner: int
    heads: int
    kv_width: int
    embeddings: int
    vocabulary: int


@dataclass(frozen=True)
class Shape:
    """How a model is trained. `prompt` and `completion` are tokens, `rows` those of a micro-batch on one process.

    `weight` and `compute` are bytes of a number in the weights and in activations; `shards` is over how many processes
    weights, gradients, optimizer states and reference are shared out. `packed`: a prompt is computed once for its group
    of responses. `vllm` is the memory that vLLM takes of this device, in bytes. `four_bits`: frozen matrices are in 4
    bits.
    """

    weight: int
    compute: int
    lora: bool
    rows: int
    group: int
    prompt: int
    completion: int
    reference: bool = False
    checkpointing: bool = False
    packed: bool = False
    on_cpu: bool = False
    rollout_rows: int = 0
    rollout_bytes: int = CACHE_BYTES
    held: int = 0
    held_apart: bool = False
    vllm: int = 0
    states: int = 2
    state_bytes: int | None = None
    four_bits: bool = False
    shards: int = 1


def training_memory(size: ModelSize, shape: Shape) -> dict[str, int]:
    """Bytes of one process by what they are for; they are held together in the middle of an update.

    With LoRA adapters are float32, whatever the weights are, and the reference is the model with its adapters off.
    """
    trained_bytes = 4 if shape.lora else shape.weight
    frozen = size.parameters - size.trained if shape.lora else size.parameters
    states = shape.states * (shape.state_bytes or trained_bytes)
    reference = 2 if shape.shards > 1 and shape.compute == 2 else shape.weight  # see `sirl.training.run.build_trainer`
    parts = {
        "weights": _frozen_bytes(size, shape, frozen) + (size.trained * 4 if shape.lora else 0),
        "reference": size.parameters * reference if shape.reference and not shape.lora else 0,
        "gradients": size.trained * trained_bytes,
        "optimizer": size.trained * states,
    }
    parts = {name: -(-value // shape.shards) for name, value in parts.items()}
    layer = shape.compute * (8 * size.width + 2 * size.kv_width + 3 * size.inner) + 4 * 4 * size.width
    if shape.packed:  # attention keeps its weights there, and queries, keys and values as they are laid out for it
        length = shape.prompt + shape.completion
        layer += shape.compute * (3 * size.width + 2 * size.kv_width + size.heads * length)
    kept = shape.compute * size.width * size.layers + layer if shape.checkpointing else layer * size.layers
    prompts = shape.rows // shape.group if shape.packed else shape.rows
    own = prompts * shape.prompt + shape.rows * shape.completion
    parts["activations"] = (max(own, shape.held) if shape.held_apart else own + shape.held) * kept
    if not shape.packed:  # as the head gives them, in float32, and what their backward pass makes of them
        parts["logits"] = shape.rows * shape.completion * size.vocabulary * (shape.compute + 8)
    if shape.vllm:
        parts["vLLM"] = shape.vllm
    else:
        a_token = 2 * size.layers * size.kv_width * shape.weight
        parts["rollouts"] = min(shape.rollout_rows * (shape.prompt + shape.completion) * a_token, shape.rollout_bytes)
    if shape.on_cpu and not shape.four_bits:
        matrices = (frozen - size.embeddings) * shape.weight
        parts["copies for the processor"] = (matrices if shape.lora else 0) + (
            frozen * shape.weight if frozen * shape.weight <= LAID_OUT else 0
        )
    if shape.on_cpu:
        parts["freed and kept"] = int((GivesBackMemory.GROWTH - 1) * sum(parts.values()))
    parts["overhead"] = OVERHEAD
    return {name: value for name, value in parts.items() if value}


def _frozen_bytes(size: ModelSize, shape: Shape, frozen: int) -> int:
    """Of 4 bits a number and a float32 scale for each 64 of them (arXiv 2305.14314); embeddings and head stay whole."""
    if not shape.four_bits:
        return frozen * shape.weight
    return size.embeddings * shape.weight + (frozen - size.embeddings) * 9 // 16


def model_size(config: Any, peft_config: Any = None) -> ModelSize:
    """The figures of a model by its configuration, with the adapters that are to be trained; no weights are made.

    Raises:
        UserError: no model can be made of the configuration, or it has no modules of the names that adapters are to be
            put on.
    """
    from peft import get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import AutoModelForCausalLM

    with loaded_whole(), torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(config)
        except UNREADABLE as error:
            raise cannot_load(config.name_or_path or "model", error) from error
        embeddings = {id(e.weight): e.weight.numel() for e in _ends(model)}
        if peft_config is not None:
            try:
                model = get_peft_model(model, peft_config)
            except ValueError as error:
                raise UserError(f"--lora_target_modules: {' '.join(str(error).split())[:200]}") from error
            if any(isinstance(end, BaseTunerLayer) for end in _ends(model.get_base_model())[1:]):
                raise UserError("--lora_target_modules: TRL trains no adapter on the head (lm_head); leave it out")
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    return ModelSize(
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        heads=heads,
        inner=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        kv_width=head_dim * (getattr(text, "num_key_value_heads", None) or heads),
        embeddings=sum(embeddings.values()),
        vocabulary=text.vocab_size,
    )


def training_shape(
    config: Any, model_args: Any, *, on_cpu: bool, device_bytes: int, prompts: Sequence[int], data: Any = None
) -> Shape:
    """How `sirl train` would train by these arguments, with prompts of these lengths in tokens.

    `data` (`sirl.training.arguments.DataConfig`) says whether there are retention prompts and pairs.
    """
    from sirl.training.run import model_dtype

    full = not model_args.use_peft
    given = None if model_args.dtype in (None, "auto") else model_dtype(model_args.dtype)
    if given is None:
        given = torch.float32 if full else default_dtype() if on_cpu else torch.bfloat16
    packed = config.packed_scoring if config.packed_scoring is not None else on_cpu
    optimizer = str(getattr(config.optim, "value", config.optim))
    drawn = config.generation_batch_size * (config.num_rollouts or config.num_generations) // config.num_generations
    colocated = config.use_vllm and config.vllm_mode == "colocate"
    apart = packed and not full and not sharded(config)
    longest = min(max(prompts, default=config.max_prompt_tokens), config.max_prompt_tokens)
    mean = -(-sum(prompts) // len(prompts)) if prompts else config.max_prompt_tokens
    return Shape(
        weight=given.itemsize,
        compute=2 if config.bf16 or config.fp16 or not on_cpu else given.itemsize,
        lora=not full,
        rows=config.per_device_train_batch_size,
        group=config.num_generations,
        prompt=mean if packed else longest,
        completion=config.max_completion_length,
        reference=bool(config.beta),
        checkpointing=bool(config.gradient_checkpointing),
        packed=packed,
        on_cpu=on_cpu,
        held=_held_tokens(config, data, mean, apart) if data is not None else 0,
        held_apart=apart,
        rollout_rows=0 if config.use_vllm else -(-drawn // PartialState().num_processes),
        # without a flag a GPU's batches follow what is free, and never need more than this
        rollout_bytes=int(config.max_cache_gb * (1 << 30)) if config.max_cache_gb else CACHE_BYTES,
        vllm=int(config.vllm_gpu_memory_utilization * device_bytes) if colocated else 0,
        states=next((n for name, n in STATES.items() if name in optimizer), 2),
        state_bytes=1 if "8bit" in optimizer else None,
        four_bits=bool(model_args.load_in_4bit),
        shards=PartialState().num_processes if sharded(config) else 1,
    )


def _held_tokens(config: Any, data: Any, prompt: int, apart: bool) -> int:
    """Tokens of retention rows and pairs in one pass, with prompts that are as long as those of training.

    `apart`: the activations of a pass go before the next one begins (`sirl.training.early_gradients`).
    """
    micro_batches = max(config.gradient_accumulation_steps, 1)
    most = config.per_device_train_batch_size

    def rows(per_process: int) -> int:  # as `sirl.training.retention.Deck` deals them
        return min(max(most, -(-per_process // micro_batches)), per_process, most if apart else per_process)

    passes = [0]
    if data.retention_dataset_name and config.retention_weight:
        passes.append(rows(config.retention_batch_size) * (prompt + config.retention_tokens))
    if data.wrap_prompts and config.pair_weight:
        passes.append(rows(config.pair_batch_size) * (prompt + WRAPPING + config.pair_tokens))
    return max(passes) if apart else sum(passes)


def announce(training: Any, name: str, revision: str | None = None, say: bool = True) -> dict[str, int]:
    """Say what a training of the model of that name needs and what there is, and warn where that is too little.

    Returns `training_memory`.

    Raises:
        UserError: adapters cannot be put where they are wanted.
    """
    from trl import get_peft_config

    on_cpu = training.config.use_cpu or not torch.cuda.is_available()
    free, total, where = available(on_cpu)
    size = model_size(model_config(name, revision), get_peft_config(training.model))
    lengths = prompt_lengths(training)
    shape = training_shape(
        training.config, training.model, on_cpu=on_cpu, device_bytes=total, prompts=lengths, data=training.data
    )
    parts = training_memory(size, shape)
    needed = sum(parts.values())
    if not say:
        return parts
    log.info(
        "memory: training %s of %s parameters takes about %s (%s); %s are free %s",
        _count(size.trained),
        _count(size.parameters),
        _gigabytes(needed),
        ", ".join(f"{part} {_gigabytes(value)}" for part, value in parts.items()),
        _gigabytes(free),
        where,
    )
    if needed > free:
        log.warning("memory: that may not fit; %s", SHRINK)
    return parts


def prompt_lengths(training: Any) -> list[int]:
    """Tokens of some training prompts, by their bytes: no tokenizer is read for it."""
    data = training.data
    prompts = load_prompts(
        data.dataset_name or "",
        column=data.prompt_column,
        split=data.dataset_train_split,
        limit=min(SAMPLE, data.max_prompts or SAMPLE),
        seed=training.config.seed,
    )
    return [
        sum(
            round(len(str(turn["content"]).encode("utf-8", "replace")) / BYTES_A_TOKEN) + FRAME
            for turn in p.conversation
        )
        for p in prompts
    ]


def model_config(name: str, revision: str | None = None) -> Any:
    """The configuration of a model by name, folder or hub id; of an adapter that of its base."""
    if demo_scale(name) is not None:
        from transformers import LlamaConfig

        from sirl.weights.bundled import BASE_SHAPE

        return LlamaConfig(**BASE_SHAPE)
    name, revision = located(name, revision)
    found = adapter_file(name, revision)
    return model_config(base_of(name, found), base_revision(found)) if found else read_config(name, revision)


def available(on_cpu: bool) -> tuple[int, int, str]:
    """Bytes that are free and that there are, and where: on the first GPU, or in memory as far as a container may."""
    if not on_cpu:
        free, total = torch.cuda.mem_get_info()
        return free, total, f"on {torch.cuda.get_device_name()}"
    memory = psutil.virtual_memory()
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit is None or used is None or limit >= memory.total:
        return memory.available, memory.total, "in memory"
    return min(memory.available, limit - used), limit, "in memory"


def _cgroup(file: str) -> int | None:
    path = Path("/sys/fs/cgroup", file)
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _ends(model: Any) -> list[Any]:
    return [e for e in (model.get_input_embeddings(), model.get_output_embeddings()) if e is not None]


def _gigabytes(value: int) -> str:
    return f"{value / 1e9:.1f} GB"


def _count(value: int) -> str:
    return f"{value / 1e9:.2f} G" if value >= 1e9 else f"{value / 1e6:.1f} M"
