"""A cache of keys and values with room for all tokens to come: each is written into its place.

transformers' `DynamicLayer` copies all it holds, in every block, for every new token.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """A `DynamicLayer` whose keys and values are the front of a larger piece of memory.

    Args:
        room: tokens that it takes without copying.
    """

    keys: Tensor | None
    values: Tensor | None

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self._memory: list[Tensor] = []  # keys and values, (..., room, head_dim)
        self._written: Tensor | None = None  # the keys as this layer left them

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append states (..., new tokens, head_dim); returns all keys and all values, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before, states = self.get_seq_length(), (key_states, value_states)
        after = before + key_states.shape[-2]
        # Somebody may have cropped, reordered or repeated the rows since: then these are copied once.
        if self.keys is not self._written or after > self._memory[0].shape[-2]:
            room = max(self.room, after)
            self._memory = [new.new_empty(*new.shape[:-2], room, new.shape[-1]) for new in states]
            for memory, seen in zip(self._memory, (self.keys, self.values), strict=True):
                if seen is not None and before:
                    memory[..., :before, :] = seen
        for memory, new in zip(self._memory, states, strict=True):
            memory[..., before:after, :] = new
        self.keys, self.values = (memory[..., :after, :] for memory in self._memory)
        self._written = self.keys
        return self.keys, self.values


def roomy_cache(model: PreTrainedModel, room: int) -> DynamicCache:
    """An empty cache; layers that keep all they read have `room`, others (windows) are as transformers makes them."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
