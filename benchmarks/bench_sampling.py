"""What the sampler's noise costs in batched generation: none, by our counter-based generator, by one generator a row.

Run it with `make bench`. Noise is drawn and then thrown away, so all three decode the same greedy tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

import utils
from benchmarks.turns import compare, requests
from personalab.lm import generation, sampling
from personalab.lm.generation import Completion

TEMPERATURE = 0.7


class Nothing:
    """Greedy decoding as it is."""

    def __init__(self, seeds: Sequence[int], temperatures: Sequence[float], device: torch.device) -> None:
        self.seeds, self.device = seeds, device

    def draw(self, scores: Tensor) -> None: ...

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.draw(scores)
        return scores


class ByCounter(Nothing):
    """This course's sampler."""

    def __init__(self, seeds: Sequence[int], temperatures: Sequence[float], device: torch.device) -> None:
        super().__init__(seeds, temperatures, device)
        self.sampler = sampling.GumbelSampler(seeds, [TEMPERATURE] * len(seeds), device)

    def draw(self, scores: Tensor) -> None:
        self.sampler(None, scores)


class AGeneratorARow(Nothing):
    """The usual way to make rows independent of each other: Gumbel noise for every token, row by row."""

    def __init__(self, seeds: Sequence[int], temperatures: Sequence[float], device: torch.device) -> None:
        super().__init__(seeds, temperatures, device)
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def draw(self, scores: Tensor) -> None:
        noise = torch.empty(scores.shape, device=scores.device)
        for row, generator in zip(noise, self.generators, strict=True):
            torch.rand(row.shape, generator=generator, out=row)
        scores.float().div(TEMPERATURE).add(noise.log_().neg_().log_().neg_())


def main() -> int:
    model, tokenizer = utils.load_model("persona")
    print(f"{utils.current_tier().persona_model}, {model.dtype}, {torch.get_num_threads()} threads")
    asked = requests()

    def run(sampler: type[Nothing]) -> list[Completion]:
        with patch.object(generation, "GumbelSampler", sampler):
            return generation.generate(model, tokenizer, asked)

    sides = {"plain": Nothing, "noise by counter": ByCounter, "noise by a generator a row": AGeneratorARow}
    timed: dict[str, Callable[[], list[Completion]]] = {name: partial(run, side) for name, side in sides.items()}
    compare(timed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
