"""A key/value cache whose memory is taken once, for the whole of a decode.

transformers' `DynamicCache` concatenates at every token, which copies the cache as many times as there are tokens; its
`StaticCache` keeps every row to the end. This one writes in place, hands the attention a view of the used part, fans a
prefilled prompt out to its samples, and can drop finished rows.
"""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class DecodeLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values `(B, H_kv, capacity, D)` of one layer, used up to `length`."""

    is_sliding = False

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra  # decode steps to make room for beyond the prompt
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            self.length = key_states.shape[2]
            return key_states, value_states
        end = self.length + key_states.shape[2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def fan_out(self, repeats: int) -> None:
        """Repeat every row for its samples and reserve room for the completion, in one copy."""
        self.keys = self._grown(self.keys, repeats)
        self.values = self._grown(self.values, repeats)

    def _grown(self, states: Tensor, repeats: int) -> Tensor:
        batch, heads, length, dim = states.shape
        room = states.new_empty(batch, repeats, heads, length + self.extra, dim)
        room[:, :, :, :length] = states[:, None]
        return room.view(batch * repeats, heads, length + self.extra, dim)

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

    def __init__(self, n_layers: int, extra: int) -> None:
        super().__init__(layers=[DecodeLayer(extra) for _ in range(n_layers)])

    def fan_out(self, repeats: int) -> None:
        for layer in self.layers:
            layer.fan_out(repeats)

    def keep_rows(self, rows: Tensor) -> None:
        for layer in self.layers:
            layer.keep_rows(rows)


def supports_decode_cache(config: object) -> bool:
    """Whether every layer of the model is plain full attention, which is all that `DecodeLayer` holds."""
    model_type = getattr(config, "model_type", "")
    kinds = getattr(config, "layer_types", None)
    return model_type in {"llama", "qwen2", "qwen3", "mistral"} and (
        (kinds is None and not getattr(config, "sliding_window", None))
        or (kinds is not None and set(kinds) == {"full_attention"})
    )


__all__ = ["DecodeCache", "DecodeLayer", "supports_decode_cache"]
