"""A key/value cache whose memory is taken by blocks of tokens.

transformers' `DynamicCache` concatenates at every token, which copies the cache as many times as there are tokens; its
`StaticCache` keeps every row to the end, and takes room for the longest answer at once. This one writes in place, hands
the attention a view of the used part, takes another block when it is full, fans prefilled prompts out to their samples,
and can drop finished rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.masking_utils import sdpa_mask

from sirl.models import attention

ATTENTION = "sirl_grouped"

BLOCK = 256
"""Tokens that a cache grows by: long answers are rare, and room for them is taken when they come."""


def grouped_attention(
    _: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **__: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention `(B, H, Q, D)`, `(B, H_kv, K, D)` twice `-> (B, Q, H, D)`.

    transformers' own repeats keys and values for the query heads that share them, which at each decoded token copies
    the whole cache; on a CPU torch's function can share them itself. Elsewhere it can do so without a mask alone, and
    takes a slow kernel with one. There the query heads that share keys become rows of one query, as in transformers'
    `integrations/sdpa_attention.py`; in a prefill, which is wide and comes once, keys are repeated.
    """
    batch, heads, width, _ = query.shape
    each = heads // key.shape[1]
    shares = each > 1 and (mask is None or shares_under_mask(key))
    if each > 1 and not shares:
        if width == 1:
            query = query.reshape(batch, key.shape[1], each, -1)
        else:
            key, value = key.repeat_interleave(each, 1), value.repeat_interleave(each, 1)
    out = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None and width > 1, scale=scaling, enable_gqa=shares
    )
    return out.reshape(batch, heads, width, -1).transpose(1, 2).contiguous(), None


def shares_under_mask(key: Tensor) -> bool:
    """Whether torch's attention is fast where query heads share keys and there is a mask: on a CPU."""
    return key.device.type == "cpu"


AttentionInterface.register(ATTENTION, grouped_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def shared_keys(model: Any) -> AbstractContextManager[None]:
    """`model` with `grouped_attention` in place of transformers' SDPA; any other attention stays as it is."""
    return attention(model, ATTENTION) if model.config._attn_implementation == "sdpa" else nullcontext()


class DecodeLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values `(B, H_kv, capacity, D)` of one layer, used up to `length`; never more than `most` columns."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, length: int, most: int) -> None:
        super().__init__()
        self.keys, self.values, self.length, self.most = keys, values, length, most
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the memory is there from the start."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        end = self.length + key_states.shape[2]
        missing = end - self.keys.shape[2]
        if missing > 0:
            self._grow(max(missing, min(BLOCK, self.most - self.keys.shape[2])))
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _grow(self, columns: int) -> None:
        """Take more columns, of zeros (see `_joined`). One tensor after the other, so that one copy waits at a time."""
        self.keys = functional.pad(self.keys, (0, 0, 0, columns))
        self.values = functional.pad(self.values, (0, 0, 0, columns))

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all rows but `rows` `(B',)`."""
        self.keys, self.values = self.keys.index_select(0, rows), self.values.index_select(0, rows)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1


class DecodeCache(Cache):  # type: ignore[misc]
    """`DecodeLayer`s for each layer of a decoder with plain full attention."""

    def __init__(self, prefills: Sequence[Cache], repeats: int, extra: int) -> None:
        """Join the caches of separately prefilled prompts, each ending at its last column.

        Every row is repeated `repeats` times, for its samples, shorter prefills move to the right, so that all prompts
        end together, and there is room for a first block of the `extra` tokens that may come.
        """
        width = max(part.get_seq_length() for part in prefills)
        block = min(extra, BLOCK)
        layers = []
        for i in range(len(prefills[0].layers)):
            parts = [part.layers[i] for part in prefills]
            keys = _joined([part.keys for part in parts], width, repeats, block)
            values = _joined([part.values for part in parts], width, repeats, block)
            layers.append(DecodeLayer(keys, values, width, width + extra))
            for part in parts:
                part.keys = part.values = None  # the copy is all that is needed from here on
        super().__init__(layers=layers)

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all rows but `rows` `(B',)` in every layer."""
        for layer in self.layers:
            layer.keep_rows(rows)


def _joined(parts: Sequence[Tensor], width: int, repeats: int, extra: int) -> Tensor:
    """`(B_i, H, P_i, D)` tensors as one `(sum B_i * repeats, H, width + extra, D)`, each pushed right to `width`."""
    batch = sum(part.shape[0] for part in parts)
    _, heads, _, dim = parts[0].shape
    # zeros, not empty: what is masked is still multiplied by its weight of 0, and NaN * 0 is NaN
    room = parts[0].new_zeros(batch, repeats, heads, width + extra, dim)
    row = 0
    for part in parts:
        room[row : row + len(part), :, :, width - part.shape[2] : width] = part[:, None]
        row += len(part)
    return room.view(batch * repeats, heads, width + extra, dim)


def supports_decode_cache(config: object) -> bool:
    """Whether every layer of the model is plain full attention, which is all that `DecodeLayer` holds."""
    model_type = getattr(config, "model_type", "")
    kinds = getattr(config, "layer_types", None)
    return model_type in {"llama", "qwen2", "qwen3", "mistral"} and (
        (kinds is None and not getattr(config, "sliding_window", None))
        or (kinds is not None and set(kinds) == {"full_attention"})
    )


__all__ = ["ATTENTION", "DecodeCache", "DecodeLayer", "shared_keys", "supports_decode_cache"]
