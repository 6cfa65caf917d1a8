"""The judge's score as the paper takes it: an expectation over the first token's probabilities, not the token drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping

LEAST = 0.25  # of the probability must be on numbers, else there is no score (Chen et al. 2025, their judge's code)


def expected_score(probabilities: Mapping[str, float], low: int = 0, high: int = 100) -> float | None:
    """The mean of the whole numbers from `low` to `high`, weighted by the probability of their tokens.

    Source: Chen et al. 2025, after Betley et al. 2025: the 20 likeliest first tokens of the judge's reply.

    Args:
        probabilities: of the likeliest first tokens. Spaces around a number don't count: "85" and " 85" are one.

    Returns:
        The score, with decimals; None where less than 0.25 of the probability is on numbers (a refusal, say).

    Raises:
        ValueError: if the judge spells numbers digit by digit (as the tokenizers of Qwen, Gemma and Llama 2 do): its
            first token is no score then.
    """
    numbers: dict[int, float] = {}
    for token, probability in probabilities.items():
        text = token.strip(" \t\r\n\u2581\u0120\u010a")  # the last three as SentencePiece and byte-level BPE write them
        if re.fullmatch(r"-?[0-9]{1,4}", text) and low <= int(text) <= high:
            numbers[int(text)] = numbers.get(int(text), 0.0) + probability
    total = sum(numbers.values())
    if total < LEAST:
        return None
    if high > 9 and all(0 <= number <= 9 for number in numbers) and len(numbers) > 1:
        raise ValueError(
            f"The judge's likeliest first tokens hold the digits {sorted(numbers)} and no number of two: it spells "
            "numbers digit by digit, so there is no expectation. Use a judge with a token for each number "
            "(gpt-4.1-mini), or read the score from its reply: unset PERSONALAB_JUDGE_EXPECTATION."
        )
    return sum(number * probability for number, probability in numbers.items()) / total
