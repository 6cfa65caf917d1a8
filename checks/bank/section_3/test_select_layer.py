import numpy as np
import torch
import torch.nn.functional as F
from einops import einsum
from sklearn.metrics import roc_auc_score

from checks.bank import right, wrong


def project(states, vectors):
    return torch.einsum("nld,ld->nl", states, vectors)


def auc(pos, neg, tie=0.5):
    """By block, from projections (answers, L)."""
    difference = pos[:, None] - neg[None]
    return ((difference > 0).float() + tie * (difference == 0).float()).mean((0, 1))


def best_of(scores):
    return int(scores.argmax()), scores


def solve(pos, neg, vectors, project=project, score=auc, choose=best_of):
    if not len(pos) or not len(neg):
        raise ValueError("Both groups are needed.")
    return choose(score(project(pos, vectors), project(neg, vectors)))


@right
def every_pair(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, vectors)


@right
def with_scikit_learn(pos_reread, neg_reread, vectors):
    """A loop over blocks; scikit-learn counts, but gives NaN for one group alone, with no more than a warning."""
    if not len(pos_reread) or not len(neg_reread):
        raise ValueError("Both groups are needed.")
    labels = np.array([1] * len(pos_reread) + [0] * len(neg_reread))
    scores = []
    for layer in range(vectors.shape[0]):
        states = torch.cat([pos_reread[:, layer], neg_reread[:, layer]])
        scores.append(roc_auc_score(labels, (states @ vectors[layer]).numpy()))
    return int(np.argmax(scores)), torch.tensor(scores)


@right
def by_ranks_of_unit_projections(pos_reread, neg_reread, vectors):
    """Mann-Whitney's U in float64; an AUC doesn't depend on the vector's norm."""
    from scipy.stats import rankdata

    n, m = len(pos_reread), len(neg_reread)
    if n * m == 0:
        raise ValueError("Both groups are needed.")
    units = F.normalize(vectors.double(), dim=-1)
    both = torch.cat([project(pos_reread.double(), units), project(neg_reread.double(), units)])
    ranks = torch.from_numpy(rankdata(both.numpy(), axis=0))[:n]
    scores = (ranks.sum(0) - n * (n + 1) / 2) / (n * m)
    block = max(range(len(scores)), key=lambda k: scores[k])
    return block, scores.float()


@right
def plain_list(pos_reread, neg_reread, vectors):
    block, scores = solve(pos_reread, neg_reread, vectors)
    return block, scores.tolist()


@wrong("longest vector")
def longest_vector(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, vectors, choose=lambda scores: (int(vectors.norm(dim=-1).argmax()), scores))


@wrong("norms of the vectors")
def norms_as_scores(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, vectors, score=lambda pos, neg: vectors.norm(dim=-1))


@wrong("difference of the mean projections")
def difference_of_means(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, vectors, score=lambda pos, neg: pos.mean(0) - neg.mean(0))


@wrong("Cohen's d")
def cohens_d(pos_reread, neg_reread, vectors):
    def score(pos, neg):
        return (pos.mean(0) - neg.mean(0)) / ((pos.var(0) + neg.var(0)) / 2).sqrt()

    return solve(pos_reread, neg_reread, vectors, score=score)


@wrong("accuracy of a threshold")
def accuracy(pos_reread, neg_reread, vectors):
    def score(pos, neg):
        middle = (pos.mean(0) + neg.mean(0)) / 2
        return torch.cat([pos > middle, neg <= middle]).float().mean(0)

    return solve(pos_reread, neg_reread, vectors, score=score)


@wrong("larger of AUC and 1 - AUC")
def direction_ignored(pos_reread, neg_reread, vectors):
    def score(pos, neg):
        return torch.maximum(auc(pos, neg), 1 - auc(pos, neg))

    return solve(pos_reread, neg_reread, vectors, score=score)


@wrong("points away from the trait: a score near 0")
def furthest_from_chance(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, vectors, choose=lambda scores: (int((scores - 0.5).abs().argmax()), scores))


@wrong("positive and negative have changed places")
def changed_places(pos_reread, neg_reread, vectors):
    return solve(neg_reread, pos_reread, vectors)


@wrong("points away from the trait")
def lowest(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, vectors, choose=lambda scores: (int(scores.argmin()), scores))


@wrong("hidden_states index")
def hidden_states_index(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, vectors, choose=lambda scores: (int(scores.argmax()) + 1, scores))


@wrong("direction taken from the held-out answers themselves")
def own_direction(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, pos_reread.mean(0) - neg_reread.mean(0))


@wrong("cosines in place of projections")
def cosines(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, vectors, project=lambda h, v: F.cosine_similarity(h, v, dim=-1))


@wrong("answer i with answer i only|need not be of one size")
def paired(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, vectors, score=lambda pos, neg: (pos > neg).float().mean(0))


@wrong("answer i with answer i only")
def paired_and_cut(pos_reread, neg_reread, vectors):
    n = min(len(pos_reread), len(neg_reread))
    return solve(pos_reread[:n], neg_reread[:n], vectors, score=lambda pos, neg: (pos > neg).float().mean(0))


@wrong("ties count 0 or 1")
def ties_lost(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, vectors, score=lambda pos, neg: auc(pos, neg, tie=0.0))


@wrong("ties count 1 or 0")
def ties_won(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, vectors, score=lambda pos, neg: auc(pos, neg, tie=1.0))


@wrong("wrong scores")
def one_vector_for_all_blocks(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, vectors[2].expand_as(vectors))


@wrong("wrong scores")
def layers_shifted(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, vectors.roll(1, 0))


@wrong("No positive answers: expected an error.*raise ValueError")
def nothing_to_compare(pos_reread, neg_reread, vectors):
    return best_of(auc(project(pos_reread, vectors), project(neg_reread, vectors)))


@wrong("No negative answers: expected an error")
def no_negatives_is_chance(pos_reread, neg_reread, vectors):
    if not len(neg_reread):
        return 0, torch.full((len(vectors),), 0.5)
    return solve(pos_reread, neg_reread, vectors)


@wrong("expected one score a block")
def one_score(pos_reread, neg_reread, vectors):
    block, scores = solve(pos_reread, neg_reread, vectors)
    return block, scores.max()


@wrong("expected a tuple")
def block_alone(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, vectors)[0]


@wrong("expected the block as an int, first, found Tensor")
def other_order(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, vectors)[::-1]


@wrong("expected the block as an int, first, found Tensor")
def block_as_a_tensor(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, vectors, choose=lambda scores: (scores.argmax(), scores))


@wrong("changed your input in place")
def normalises_in_place(pos_reread, neg_reread, vectors):
    vectors /= vectors.norm(dim=-1, keepdim=True)
    return solve(pos_reread, neg_reread, vectors)


def auc_by_steps(pos, neg):
    """The area under the curve itself: one step a threshold."""
    labels = torch.cat([torch.ones(len(pos)), torch.zeros(len(neg))])
    areas = []
    for column in torch.cat([pos, neg]).T:
        steps = [(labels[column >= t], t) for t in column.unique(sorted=True).flip(0)]
        rates = [(0.0, 0.0)] + [((s == 0).sum().item() / len(neg), s.sum().item() / len(pos)) for s, _ in steps]
        x, y = zip(*rates, strict=True)
        areas.append(np.trapezoid(y, x))
    return torch.tensor(areas, dtype=torch.float64)


@right
def area_of_a_curve(pos_reread, neg_reread, vectors):
    return solve(pos_reread, neg_reread, vectors, score=auc_by_steps)


@right
def with_einops_and_numpy(pos_reread, neg_reread, vectors):
    """A numpy array of scores and a numpy int; searchsorted counts what lies below."""
    if 0 in (len(pos_reread), len(neg_reread)):
        raise RuntimeError("one group is empty")
    pos, neg = (einsum(x, vectors, "n l d, l d -> l n").numpy() for x in (pos_reread, neg_reread))
    scores = []
    for p, q in zip(pos, np.sort(neg, axis=1), strict=True):
        below, not_above = np.searchsorted(q, p, "left"), np.searchsorted(q, p, "right")
        scores.append((below + not_above).mean() / 2 / len(q))
    return np.argmax(scores), np.array(scores)


@right
def arena_style(pos_reread, neg_reread, vectors):
    """Layer by layer, pair by pair."""
    if pos_reread.shape[0] == 0 or neg_reread.shape[0] == 0:
        raise ValueError("No examples to compare.")
    best_layer, scores = 0, []
    for layer in range(vectors.shape[0]):
        pos_proj = [(act @ vectors[layer]).item() for act in pos_reread[:, layer]]
        neg_proj = [(act @ vectors[layer]).item() for act in neg_reread[:, layer]]
        wins = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p in pos_proj for n in neg_proj)
        scores.append(wins / (len(pos_proj) * len(neg_proj)))
        if scores[-1] > scores[best_layer]:
            best_layer = layer
    return best_layer, torch.tensor(scores)


def but(words, **changes):
    """A wrong solution: the right one with something changed."""

    def solution(pos_reread, neg_reread, vectors):
        return solve(pos_reread, neg_reread, vectors, **changes)

    solution.__module__ = __name__
    return wrong(words)(solution)


last_of_equals = but(
    "take the first of them", choose=lambda scores: (int((scores == scores.max()).nonzero()[-1]), scores)
)
in_percent = but("between 0 and 1", score=lambda pos, neg: 100 * auc(pos, neg))
medians = but("wrong scores", score=lambda pos, neg: (pos > neg.median(0).values).float().mean(0))
normal_curve = but(
    "wrong scores",
    score=lambda pos, neg: torch.special.ndtr((pos.mean(0) - neg.mean(0)) / (pos.var(0) + neg.var(0)).sqrt()),
)
gini = but("wrong scores|between 0 and 1", score=lambda pos, neg: 2 * auc(pos, neg) - 1)
of_magnitudes = but("wrong scores", project=lambda states, vectors: project(states, vectors).abs())
every_coordinate = but("wrong scores|expected one score", project=lambda states, vectors: (states * vectors).amax(-1))
second_best = but("expected block", choose=lambda scores: (int(scores.argsort()[-2]), scores))
counted_from_one = but("hidden_states index", choose=lambda scores: (int(scores.argmax()) + 1, scores))
mean_answer = but("wrong scores", score=lambda pos, neg: (pos.mean(0) > neg).float().mean(0))


@wrong("expected the block as an int, first, found str")
def named_block(pos_reread, neg_reread, vectors):
    block, scores = solve(pos_reread, neg_reread, vectors)
    return f"block {block}", scores
