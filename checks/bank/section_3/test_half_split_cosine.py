import random
from itertools import combinations

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from checks.bank import right, wrong


def refuse(differences, ids):
    if len(differences) != len(ids):
        raise ValueError("One question a pair.")
    if len(set(ids)) < 2:
        raise ValueError("Two questions at least.")


def cosine(a, b):
    return F.cosine_similarity(a, b, dim=0).item()


def split(ids, generator):
    """Whether each pair falls into the first half."""
    names = list(dict.fromkeys(ids))
    order = torch.randperm(len(names), generator=generator).tolist()
    first = {names[i] for i in order[: len(names) // 2]}
    return torch.tensor([name in first for name in ids])


@right
def by_permutation(pair_differences, question_ids, generator):
    refuse(pair_differences, question_ids)
    first = split(question_ids, generator)
    return cosine(pair_differences[first].mean(0), pair_differences[~first].mean(0))


@right
def with_numpy_sums(pair_differences, question_ids, generator):
    """Sums instead of means, the larger half first, random keys instead of a permutation; NumPy's float is a float."""
    refuse(pair_differences, question_ids)
    keys = {name: torch.rand((), generator=generator).item() for name in sorted(set(question_ids), key=str)}
    ranked = sorted(keys, key=keys.get)
    first = set(ranked[: (len(ranked) + 1) // 2])
    values = pair_differences.double().numpy()
    a = sum(row for row, name in zip(values, question_ids, strict=True) if name in first)
    b = sum(row for row, name in zip(values, question_ids, strict=True) if name not in first)
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


@right
def seeded_by_the_generator(pair_differences, question_ids, generator):
    """Python's shuffle, seeded by a number drawn from the generator."""
    refuse(pair_differences, question_ids)
    names = sorted(set(question_ids), key=repr)
    random.Random(int(torch.randint(2**31, (), generator=generator))).shuffle(names)
    first = torch.tensor([name in names[::2] for name in question_ids])
    return float(F.cosine_similarity(pair_differences[first].sum(0), pair_differences[~first].sum(0), dim=0))


@wrong("split the pairs")
def by_pair(pair_differences, question_ids, generator):
    refuse(pair_differences, question_ids)
    order = torch.randperm(len(pair_differences), generator=generator)
    a, b = order.chunk(2)
    return cosine(pair_differences[a].mean(0), pair_differences[b].mean(0))


@wrong("unequal numbers")
def a_coin_for_each_question(pair_differences, question_ids, generator):
    refuse(pair_differences, question_ids)
    names = list(dict.fromkeys(question_ids))
    first = set()
    while not 0 < len(first) < len(names):
        first = {n for n in names if torch.rand((), generator=generator) < 0.5}
    here = torch.tensor([name in first for name in question_ids])
    return cosine(pair_differences[here].mean(0), pair_differences[~here].mean(0))


@wrong("unequal numbers")
def one_question_against_the_rest(pair_differences, question_ids, generator):
    refuse(pair_differences, question_ids)
    names = list(dict.fromkeys(question_ids))
    chosen = names[int(torch.randint(len(names), (), generator=generator))]
    here = torch.tensor([name == chosen for name in question_ids])
    return cosine(pair_differences[here].mean(0), pair_differences[~here].mean(0))


@wrong("always the same")
def every_second_question(pair_differences, question_ids, generator):
    refuse(pair_differences, question_ids)
    names = list(dict.fromkeys(question_ids))
    here = torch.tensor([names.index(name) % 2 == 0 for name in question_ids])
    return cosine(pair_differences[here].mean(0), pair_differences[~here].mean(0))


@wrong("always the same")
def the_generators_first_seed(pair_differences, question_ids, generator):
    again = torch.Generator().manual_seed(generator.initial_seed())
    return by_permutation(pair_differences, question_ids, again)


@wrong("global generator")
def global_permutation(pair_differences, question_ids, generator):
    return by_permutation(pair_differences, question_ids, None)


@wrong("global generator")
def seeds_everything(pair_differences, question_ids, generator):
    torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
    return by_permutation(pair_differences, question_ids, generator)


@wrong("normalise the differences")
def of_units(pair_differences, question_ids, generator):
    return by_permutation(F.normalize(pair_differences, dim=1), question_ids, generator)


@wrong("average over questions first")
def each_question_once(pair_differences, question_ids, generator):
    refuse(pair_differences, question_ids)
    names = list(dict.fromkeys(question_ids))
    means = torch.stack([pair_differences[torch.tensor([q == n for q in question_ids])].mean(0) for n in names])
    return by_permutation(means, names, generator)


@wrong("subtract the mean")
def centred(pair_differences, question_ids, generator):
    return by_permutation(pair_differences - pair_differences.mean(0), question_ids, generator)


@wrong("1 minus")
def distance(pair_differences, question_ids, generator):
    return 1 - by_permutation(pair_differences, question_ids, generator)


@wrong("equal generators")
def with_luck_of_its_own(pair_differences, question_ids, generator):
    refuse(pair_differences, question_ids)
    own = torch.Generator()
    own.seed()
    return by_permutation(pair_differences, question_ids, own)


@wrong("expected a float, found Tensor")
def a_tensor(pair_differences, question_ids, generator):
    return torch.tensor(by_permutation(pair_differences, question_ids, generator))


@wrong("no two halves")
def nan_for_one_question(pair_differences, question_ids, generator):
    if len(set(question_ids)) < 2:
        return float("nan")
    return by_permutation(pair_differences, question_ids, generator)


@wrong("every pair needs its question")
def missing_ids_ignored(pair_differences, question_ids, generator):
    n = min(len(question_ids), len(pair_differences))
    return by_permutation(pair_differences[:n], question_ids[:n], generator)


@wrong("in place")
def normalises_in_place(pair_differences, question_ids, generator):
    value = by_permutation(pair_differences, question_ids, generator)
    pair_differences /= pair_differences.norm(dim=1, keepdim=True)
    return value


@right
def with_pandas(pair_differences, question_ids, generator):
    """A number of numpy's own, in single precision."""
    refuse(pair_differences, question_ids)
    table = pd.DataFrame(pair_differences.numpy()).assign(question=pd.Categorical(question_ids).codes)
    codes = table.question.unique()
    half = codes[torch.randperm(len(codes), generator=generator)[: len(codes) // 2].numpy()]
    first = table.question.isin(half)
    a, b = (table[rows].drop(columns="question").mean().to_numpy() for rows in (first, ~first))
    return np.float32(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@right
def one_of_all_halvings(pair_differences, question_ids, generator):
    """Every way to choose half of the questions is listed, and one of them drawn."""
    refuse(pair_differences, question_ids)
    names = list(dict.fromkeys(question_ids))
    ways = list(combinations(names, len(names) // 2))
    half = ways[int(torch.randint(len(ways), (1,), generator=generator))]
    first = torch.tensor([q in half for q in question_ids])
    return cosine(pair_differences[first].mean(0), pair_differences[~first].mean(0))


@right
def arena_style(pair_differences, question_ids, generator):
    """Lists and loops."""
    if len(pair_differences) != len(question_ids):
        raise ValueError("Each pair needs a question id.")
    unique_questions = sorted(set(question_ids), key=lambda q: str(q))
    if len(unique_questions) < 2:
        raise ValueError("Need at least two questions to split.")
    perm = torch.randperm(len(unique_questions), generator=generator)
    first_half = {unique_questions[i] for i in perm[: len(unique_questions) // 2].tolist()}
    diffs_a, diffs_b = [], []
    for diff, question in zip(pair_differences, question_ids, strict=True):
        (diffs_a if question in first_half else diffs_b).append(diff)
    vec_a, vec_b = torch.stack(diffs_a).mean(dim=0), torch.stack(diffs_b).mean(dim=0)
    return (vec_a @ vec_b / (vec_a.norm() * vec_b.norm())).item()


def halves(words, value=lambda a, b: cosine(a.mean(0), b.mean(0)), part=split):
    """A wrong solution: the halves divided otherwise, or something else taken of them."""

    def solution(pair_differences, question_ids, generator):
        refuse(pair_differences, question_ids)
        first = part(question_ids, generator)
        return float(value(pair_differences[first], pair_differences[~first]))

    solution.__module__ = __name__
    return wrong(words)(solution)


def rotated(ids, generator):
    """Neighbours in the list stay neighbours."""
    names = list(dict.fromkeys(ids))
    start = int(torch.randint(len(names), (), generator=generator))
    half = (names + names)[start : start + len(names) // 2]
    return torch.tensor([q in half for q in ids])


def first_two_together(ids, generator):
    """The rest is drawn."""
    names = list(dict.fromkeys(ids))
    rest = [names[2:][i] for i in torch.randperm(len(names) - 2, generator=generator)] if len(names) > 2 else []
    half = names[: min(2, len(names) - 1)] + rest[: max(len(names) // 2 - 2, 0)]
    return torch.tensor([q in half for q in ids])


rotation = halves("one of a few", part=rotated)
two_stay_together = halves("one of a few|belongs to no halving", part=first_two_together)
absolute = halves("belongs to no halving|wrong", lambda a, b: 1 - abs(cosine(a.mean(0), b.mean(0))))
dot_product = halves("lies between -1 and 1|no halving", lambda a, b: a.mean(0) @ b.mean(0))
mean_of_cosines = halves("no halving", lambda a, b: (F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).mean())
medians = halves("no halving", lambda a, b: cosine(a.median(0).values, b.median(0).values))
correlation = halves("no halving", lambda a, b: torch.corrcoef(torch.stack([a.mean(0), b.mean(0)]))[0, 1])
first_pair_alone = halves("no halving", lambda a, b: cosine(a[0], b[0]))
with_the_whole = halves("no halving", lambda a, b: cosine(a.mean(0), torch.cat([a, b]).mean(0)))


@wrong("no halving|given no question|expected a result")
def odd_question_dropped(pair_differences, question_ids, generator):
    refuse(pair_differences, question_ids)
    names = list(dict.fromkeys(question_ids))
    kept = names[: len(names) // 2 * 2]
    rows = [i for i, q in enumerate(question_ids) if q in kept]
    return by_permutation(pair_differences[rows], [question_ids[i] for i in rows], generator)


@wrong("always the same")
def seeds_the_generator(pair_differences, question_ids, generator):
    return by_permutation(pair_differences, question_ids, generator.manual_seed(0))
