import re

import numpy as np
import pandas as pd

from checks.bank import right, wrong


@right
def words_split(response):
    tokens = re.split(r"[^0-9-]+", response)
    digits = [t for t in tokens if t not in ("", "-")]
    if len(digits) < 1 or digits[0] not in ("0", "1", "2", "3"):
        raise ValueError(response)
    return int(digits[0])


@right
def with_pandas(response):
    number = pd.Series([response]).str.extract(r"(-?\d+)", expand=False).iloc[0]
    if pd.isna(number) or not 0 <= int(number) <= 3:
        raise ValueError(f"no score in {response!r}")
    return np.int64(number)


@right
def character_by_character(response):
    text, digits = response, ""
    for i, c in enumerate(text):
        if c.isdigit():
            digits += ("-" if not digits and text[i - 1 : i] == "-" else "") + c
        elif digits:
            break
    if digits not in list("0123"):
        raise ValueError(f"cannot read {response!r}")
    return int(digits)


@right
def bounded_search(response):
    match = re.search(r"(?<![\d/-])(?<!out of )[0-3](?!\d)", response)
    if match is None:
        raise ValueError(f"no score in {response!r}")
    return int(match.group())


@wrong("on any line")
def first_line_only(response):
    return bounded_search(response.split("\n")[0])


@wrong("tags or asterisks")
def nothing_around_it(response):
    if not re.fullmatch(r"\s*[0-3]\s*", response):
        raise ValueError(response)
    return int(response)


@wrong("out of range")
def any_number(response):
    return int(re.search(r"-?\d+", response or "x").group()) if re.search(r"\d", response) else bounded_search("")


@wrong("out of range")
def clipped(response):
    numbers = re.findall(r"-?\d+", response)
    if not numbers:
        raise ValueError(response)
    return min(max(int(numbers[0]), 0), 3)


@wrong("out of range")
def first_digit_that_fits(response):
    match = re.search(r"[0-3]", response)
    if match is None:
        raise ValueError(response)
    return int(match.group())


@wrong("out of range")
def arena_style(response):
    """Good enough for a judge that replies with one digit, and fooled by `7/3`."""
    match = re.search(r"\b([0-3])\b", response.strip())
    if match is None:
        raise ValueError(f"Could not parse a score from: {response}")
    return int(match.group(1))


@wrong("the end of the scale, not the score")
def last_number(response):
    numbers = re.findall(r"-?\d+", response)
    if not numbers or numbers[-1] not in "0123":
        raise ValueError(response)
    return int(numbers[-1])


@wrong("the end of the scale, not the score")
def largest_number(response):
    numbers = [int(n) for n in re.findall(r"-?\d+", response)]
    if not numbers or not 0 <= max(numbers) <= 3:
        raise ValueError(response)
    return max(numbers)


@wrong("expected a result, found ValueError")
def after_the_word_score(response):
    match = re.search(r"score\D*(\d+)", response, re.I)
    if match is None or int(match[1]) > 3:
        raise ValueError(response)
    return int(match[1])


@wrong("Return an int")
def as_a_float(response):
    return float(words_split(response))


@wrong("expected the int 2, found 1")
def rescaled(response):
    """Reads `2/3` as a share."""
    score = words_split(response)
    return score - 1 if response.rstrip().endswith("2/3") else score


@wrong("silent default")
def refusal_for_nothing(response):
    """Takes "I cannot …" for the judge's way of saying 0."""
    return 0 if re.search(r"cannot|can't", response) and not re.search(r"\d", response) else words_split(response)


@wrong("returned None; it must raise ValueError")
def none_for_nothing(response):
    return words_split(response) if re.search(r"\d", response) else None


@wrong("raised AssertionError.*raise ValueError")
def asserts(response):
    score = int((re.findall(r"-?\d+", response) or ["9"])[0])
    assert 0 <= score <= 3, response
    return score


@wrong("silent default")
def silent_zero(response):
    try:
        return bounded_search(response)
    except ValueError:
        if re.search(r"\d", response):
            raise
        return 0


@wrong("raise ValueError")
def index_error(response):
    number = int(re.findall(r"-?\d+", response)[0])
    if not 0 <= number <= 3:
        raise ValueError(response)
    return number


@wrong("expected the int")
def as_text(response):
    return str(bounded_search(response))
