"""Answers whose states are noted while they are written, against writing them and reading them after that.

    python -m benchmarks.bench_noting    # in PERSONALAB_DTYPE, with OMP_NUM_THREADS threads; minutes

Sides take turns; medians of the rounds, with the smallest and the largest ratio.
"""

from __future__ import annotations

import sys
from statistics import median

import torch

import utils
from benchmarks.bench_packed import timed
from personalab.lm.noting import Noted

ROUNDS, N = 5, 64


def main() -> int:
    model, tokenizer = utils.load_model("persona")
    systems = [role.prompts[0] for role in list(utils.load_roles().values())[:4] for _ in range(N // 4)]
    questions = utils.load_questions()[: N // 4] * 4

    def written() -> list[str]:
        return utils.answer_questions(model, tokenizer, systems, questions, max_tokens=40)

    def read(texts: list[str], noted: Noted | None = None) -> torch.Tensor:
        chats = [utils.as_messages(*row) for row in zip(systems, questions, texts, strict=True) if row[2].strip()]
        return utils.mean_response_activations(model, tokenizer, chats, noted=noted)

    def in_turn() -> tuple[list[str], torch.Tensor]:
        texts = written()
        return texts, read(texts)

    def at_once() -> tuple[list[str], torch.Tensor]:
        with utils.noting(model) as noted:
            texts = written()
        return texts, read(texts, noted)

    in_turn()
    spent: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        (before, (texts, states)), (after, (same, taken)) = timed(in_turn), timed(at_once)
        assert texts == same
        spent.append((before, after))
    ratios = [before / after for before, after in spent]
    off = ((states - taken).norm(dim=-1) / states.norm(dim=-1)).max().item()
    print(f"{model.dtype}, {torch.get_num_threads()} threads: {N} answers of 40 tokens, states after all blocks")
    print(f"in turn {median(b for b, _ in spent):.2f} s, noted {median(a for _, a in spent):.2f} s")
    print(
        f"ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); texts equal; means differ by {off:.0e}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
