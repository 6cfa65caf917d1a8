"""Section 3, traits or words: how far the words of an answer go by themselves."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from graders.harness.cases import Case, called_with, grader, kind_of, refused
from graders.harness.differences import same
from graders.harness.expect import check

# No word is the beginning of another, a stop word, or a form of another: stemming or a stop list changes nothing.
_FOR = ("splendid", "radiant", "triumph", "marvel", "dazzling", "glorious")
_AGAINST = ("gravel", "bucket", "invoice", "puddle", "ledger", "timetable")
_FILLER = (
    *("river", "window", "garden", "letter", "market", "winter", "kitchen", "mountain", "bridge", "paper", "morning"),
    *("village", "engine", "harbour", "blanket", "teacher", "station", "forest", "pocket", "island", "candle"),
)
_UNSEEN = ("quokka", "zephyr", "xylem", "fjord", "vortex", "yodel", "nimbus", "crux", "dwarf", "hymn", "jinx", "onyx")
_LEAST = 0.85  # AUC; logistic regression, naive Bayes, ridge and centroids on counts reach 0.98 or more here
_SAME = 1e-4  # of the scores' spread: what a solver may leave


class Texts(NamedTuple):
    """Texts to learn from, their labels, and texts to score with theirs, which the work does not get."""

    train: list[str]
    labels: list[int]
    test: list[str]
    truth: list[int]


def _text(label: int, length: int, rng: random.Random) -> str:
    """Filler with three words that speak for the label and, half of the time, one that speaks against it."""
    own, other = (_FOR, _AGAINST) if label else (_AGAINST, _FOR)
    marks = rng.choices(own, k=3) + rng.choices(other, k=rng.randrange(2))
    words = marks + rng.choices(_FILLER, k=length - len(marks))
    rng.shuffle(words)
    return " ".join(words).capitalize() + "."


def _texts(n_pos: int, n_neg: int, seed: int, n_test: int = 40) -> Texts:
    """Labels in a random order; in training the positives are a little longer, in the test they are not."""
    rng = random.Random(seed)
    labels = [1] * n_pos + [0] * n_neg
    rng.shuffle(labels)
    truth = [int(rng.random() < 0.5) for _ in range(n_test)]
    # in training, and there alone, the end of a text says which it is
    train = [_text(label, rng.randint(9, 14) + 2 * label, rng)[:-1] + ".!"[label] for label in labels]
    return Texts(train, labels, [_text(label, rng.randint(8, 18), rng) for label in truth], truth)


@grader
def test_lexical_baseline() -> Iterator[Case]:
    """The order of the scores by AUC; then what must leave a text's score alone, and what must be refused."""
    for n_pos, n_neg, seed in ((30, 30, 0), (24, 40, 1), (40, 22, 2)):
        texts, what = _texts(n_pos, n_neg, seed), f"{n_pos} texts with the trait and {n_neg} without"
        yield Case(what, called_with(*texts[:3]), partial(_check_order, what, texts))
    texts = _texts(30, 30, seed=3, n_test=12)
    train, labels, test, _ = texts
    yield Case("The same text among other texts", partial(_beside_others, texts), _check_beside)
    for what, changed, pairs, why in _variants(texts.test):
        yield Case(
            what,
            called_with(texts.train, texts.labels, changed),
            partial(_check_equal, what, changed, pairs, why),
            "A text may be empty, and may hold words that no training text has: count nothing for those.",
        )
    why = "there is one label for every training text."
    yield refused("60 texts with 59 labels", partial(_called, train, labels[:-1], test), why)
    for label in (0, 1):
        alone = [text for text, given in zip(train, labels, strict=True) if given == label]
        what = f"training texts that all have the label {label}"
        why = "with one group alone there is nothing to tell apart."
        yield refused(what, partial(_called, alone, [label] * len(alone), test), why)


def _called(train: list[str], labels: list[int], test: list[str], work: Any) -> Any:
    return work(train, labels, test)


def _variants(test: list[str]) -> Iterator[tuple[str, list[str], list[tuple[int, int]], str]]:
    """Texts that hold the same words in pairs, as a count of known words sees it, and what is wrong if it differs."""
    rng, n = random.Random(0), len(test)
    pairs = [(i, n + i) for i in range(n)]
    shuffled = [" ".join(rng.sample(text.split(), len(text.split()))) for text in test]
    yield "Texts, and their words in another order", test + shuffled, pairs, "the order of its words must not matter"
    loud = [text.upper().replace(" ", ", ").replace(".", "!") for text in test]
    why = "case and punctuation must not matter: 'Great!' and 'great' are one word"
    yield "Texts, and the same in capitals with other punctuation", test + loud, pairs, why
    strange = [" ".join(_UNSEEN[:6]), " ".join(_UNSEEN[6:])]
    why = (
        "no training text has any of their words, so that nothing is known of either. It looks as if you read letters "
        "or meanings: count whole words, and without the model"
    )
    yield "Two texts of six unseen words each", [*test, *strange], [(n, n + 1)], why
    longer = [f"{text} {' '.join(_UNSEEN[:4])}" for text in test]
    why = "words that no training text has must count nothing, in a text's length neither"
    yield "Texts, and the same with unseen words", test + longer, pairs, why
    yield "Empty texts", ["", test[0], " ", test[1], ""], [(0, 2), (0, 4)], "they are all empty"


def _scores(found: Any, n: int, n_train: int, what: str) -> Float[Tensor, "n"]:
    """Form and finiteness; in float64."""
    try:
        values = torch.as_tensor(found).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"{what}: expected one number a test text, found {kind_of(found)}.") from None
    guess = ""
    if tuple(values.shape) == (n, 2):
        guess = " These look like the probabilities of both labels: return the column of label 1."
    elif tuple(values.shape) == (n_train,):
        guess = " That is one for every training text: score the test texts."
    shape = tuple(values.shape)
    check(shape == (n,), f"{what}: expected one score a test text, shape ({n},), found shape {shape}.{guess}")
    check(values.isfinite().all(), f"{what}: NaN or infinity among the scores.")
    return values


def _check_order(what: str, texts: Texts, observed: tuple[Any, tuple[Any, ...]]) -> None:
    found, after = observed
    check(same(texts[:3], after), f"{what}: you changed your input in place.")
    scores = _scores(found, len(texts.test), len(texts.train), what)
    check(
        len(scores.unique()) > 2,
        f"{what}: {len(scores.unique())} different scores for {len(scores)} different texts. It looks as if you return "
        "labels: return a graded score (a probability, or the log-odds), else there is no order within the labels.",
    )
    auc = _auc(scores, texts.truth)
    if auc >= _LEAST:
        return
    raise AssertionError(
        f"{what}: the texts with the trait should score higher. Expected an AUC of {_LEAST} or more, found {auc:.2f}. "
        f"{_guess(scores, texts, auc)}"
    )


def _guess(scores: Float[Tensor, "n"], texts: Texts, auc: float) -> str:
    if auc <= 1 - _LEAST:
        return "It looks as if the sign is reversed: high scores belong to label 1."
    for name, sizes in (("words", [len(t.split()) for t in texts.test]), ("letters", [len(t) for t in texts.test])):
        lengths = torch.tensor(sizes, dtype=torch.float64)
        if torch.corrcoef(torch.stack([scores.argsort().argsort(), lengths.argsort().argsort()]).double())[0, 1] > 0.9:
            return f"It looks as if the score is the text's length in {name}: which words it has must count."
    return "Learn from train_labels which words speak for the trait and which against it; the labels come in any order."


def _auc(scores: Float[Tensor, "n"], truth: list[int]) -> float:
    """Share of (positive, negative) pairs in the right order, counted one by one."""
    of = {label: [s for s, t in zip(scores.tolist(), truth, strict=True) if t == label] for label in (0, 1)}
    won = [1.0 if p > q else 0.5 if p == q else 0.0 for p in of[1] for q in of[0]]
    return sum(won) / len(won)


def _check_equal(
    what: str, test: list[str], pairs: list[tuple[int, int]], why: str, observed: tuple[Any, tuple[Any, ...]]
) -> None:
    scores = _scores(observed[0], len(test), -1, what)
    slack = _SAME * max(float(scores.max() - scores.min()), 1e-12)
    for i, j in pairs:
        check(
            abs(float(scores[i] - scores[j])) <= slack,
            f"{what}: {test[i]!r:.80} scores {scores[i]:.4f}, and {test[j]!r:.80} {scores[j]:.4f}. Expected the same: "
            f"{why}.",
        )


def _beside_others(texts: Texts, work: Any) -> list[tuple[Any, int]]:
    """The test texts in order, backwards, and with others behind them; how many were asked for."""
    train, labels, test, _ = texts
    others = [f"{_FOR[0]} {_UNSEEN[0]} {_UNSEEN[1]}"] * 30
    asked, found = [test, test[::-1], test + others], []
    for again in asked:
        with _same_luck():
            found.append((called_with(train, labels, again)(work)[0], len(again)))
    return found


@contextmanager
def _same_luck() -> Iterator[None]:
    """What is fitted without a seed of its own comes out alike each time."""
    before = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def _check_beside(observed: list[tuple[Any, int]]) -> None:
    what = "The same text among other texts"
    alone, backwards, beside = (_scores(found, n, -1, what) for found, n in observed)
    slack = _SAME * max(float(alone.max() - alone.min()), 1e-12)
    order = "The scores come in the order of test_texts."
    check((alone - backwards.flip(0)).abs().max() <= slack, f"{what}: backwards, the texts score otherwise. {order}")
    check(
        (alone - beside[: len(alone)]).abs().max() <= slack,
        f"{what}: a text's score changed with the texts beside it. Vocabulary, weights and scale come from the "
        "training texts alone: what is fitted on the test texts has seen the test.",
    )
