import re

from checks.bank import right, wrong


@right
def words_split(response):
    tokens = re.split(r"[^0-9-]+", response)
    digits = [t for t in tokens if t not in ("", "-")]
    if len(digits) < 1 or digits[0] not in ("0", "1", "2", "3"):
        raise ValueError(response)
    return int(digits[0])


@right
def bounded_search(response):
    match = re.search(r"(?<![\d-])[0-3](?!\d)", response)
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
