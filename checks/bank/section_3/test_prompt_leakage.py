import numpy as np
import torch
from scipy.stats import rankdata

import utils
from checks.bank import right, wrong
from graders.harness import oracles
from personalab.lm.models import decoder_blocks


@torch.no_grad()
def reading(model, tokenizer, questions, responses, prompt, first=1):
    rows = []
    for question, response in zip(questions, responses, strict=True):
        ids, spans = oracles.spans(oracles.messages(prompt, question, response), tokenizer)
        states = torch.stack(model(torch.tensor([ids]), output_hidden_states=True).hidden_states)[:, 0]
        rows.append(states[first : len(states) - 1 + first, slice(*spans[0])].float().mean(1))
    return torch.stack(rows)


def auc(pos, neg, vectors):
    difference = (pos * vectors).sum(-1)[:, None] - (neg * vectors).sum(-1)[None]
    return ((difference > 0).float() + 0.5 * (difference == 0).float()).mean((0, 1))


@right
def two_readings(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors):
    pos = reading(model, tokenizer, questions, responses, pos_system_prompt)
    neg = reading(model, tokenizer, questions, responses, neg_system_prompt)
    return auc(pos, neg, vectors)


@right
def with_the_engine(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors):
    """Both prompts in one call; counted with scikit-learn."""
    from sklearn.metrics import roc_auc_score

    conversations = [
        utils.as_messages(prompt, q, r)
        for prompt in (pos_system_prompt, neg_system_prompt)
        for q, r in zip(questions, responses, strict=True)
    ]
    projections = (utils.mean_response_activations(model, tokenizer, conversations) * vectors).sum(-1)
    labels = [1] * len(questions) + [0] * len(questions)
    return torch.tensor([roc_auc_score(labels, column.numpy()) for column in projections.T])


@wrong("changed places")
def swapped(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors):
    return two_readings(model, tokenizer, questions, responses, neg_system_prompt, pos_system_prompt, vectors)


@wrong("with itself only")
def paired(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors):
    pos = reading(model, tokenizer, questions, responses, pos_system_prompt)
    neg = reading(model, tokenizer, questions, responses, neg_system_prompt)
    return ((pos * vectors).sum(-1) > (neg * vectors).sum(-1)).float().mean(0)


@wrong("same prompt")
def one_prompt(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors):
    return two_readings(model, tokenizer, questions, responses, pos_system_prompt, pos_system_prompt, vectors)


@wrong("shifted")
def shifted(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors):
    pos = reading(model, tokenizer, questions, responses, pos_system_prompt, first=0)
    neg = reading(model, tokenizer, questions, responses, neg_system_prompt, first=0)
    return auc(pos, neg, vectors)


@wrong("no system prompt at all")
def negative_without_prompt(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors):
    return two_readings(model, tokenizer, questions, responses, pos_system_prompt, "", vectors)


@wrong("take the second")
def block_and_scores(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors):
    scores = two_readings(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors)
    return int(scores.argmax()), scores


@wrong("shape")
def one_number(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors):
    return two_readings(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors).max()


@wrong("between 0 and 1")
def difference_of_means(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors):
    pos = reading(model, tokenizer, questions, responses, pos_system_prompt)
    neg = reading(model, tokenizer, questions, responses, neg_system_prompt)
    return 100 * ((pos - neg) * vectors).sum(-1).mean(0)


def solve(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors, score=auc, **change):
    """Both readings, then a score by block."""
    change = {"read": reading, "v": lambda vectors, pos, neg: vectors, "texts": lambda r: r} | change
    args = (model, tokenizer, questions, change["texts"](responses))
    pos, neg = (change["read"](*args, prompt) for prompt in (pos_system_prompt, neg_system_prompt))
    return score(pos, neg, change["v"](vectors, pos, neg))


@right
def by_ranks_in_numpy(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors):
    """Mann-Whitney's U from ranks; a numpy array."""

    def score(pos, neg, vectors):
        n = len(pos)
        both = np.einsum("nld,ld->nl", torch.cat([pos, neg]).double().numpy(), vectors.double().numpy())
        return (rankdata(both, axis=0)[:n].sum(0) - n * (n + 1) / 2) / (n * len(neg))

    return solve(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors, score)


@right
@torch.no_grad()
def with_hooks_and_loops(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors):
    """Projections as they come out of each block; a list of numbers; the end marker counts as part of the answer."""
    found = {prompt: [] for prompt in (pos_system_prompt, neg_system_prompt)}
    for prompt, rows in found.items():
        for question, response in zip(questions, responses, strict=True):
            ids, spans = oracles.spans(oracles.messages(prompt, question, response), tokenizer)
            a, b, kept = spans[0][0], spans[0][1] + 1, []
            handles = [
                block.register_forward_hook(
                    lambda _m, _a, out, kept=kept: kept.append(out[0] if isinstance(out, tuple) else out)
                )
                for block in decoder_blocks(model)
            ]
            try:
                model(torch.tensor([ids], device=model.device))
            finally:
                for handle in handles:
                    handle.remove()
            rows.append(
                [
                    (h.view(-1, h.shape[-1])[a:b].float().mean(0).cpu() @ v).item()
                    for h, v in zip(kept, vectors, strict=True)
                ]
            )
    columns = [list(zip(*rows, strict=True)) for rows in found.values()]
    wins = [[(p > q) + 0.5 * (p == q) for p in pos for q in neg] for pos, neg in zip(*columns, strict=True)]
    return [sum(w) / len(w) for w in wins]


@right
def arena_style(model, tokenizer, questions, responses, pos_system_prompt: str, neg_system_prompt: str, vectors):
    pos_acts = reading(model, tokenizer, questions, responses, pos_system_prompt)
    neg_acts = reading(model, tokenizer, questions, responses, neg_system_prompt)
    aucs = []
    for layer in range(vectors.shape[0]):
        pos_proj = pos_acts[:, layer] @ vectors[layer]
        neg_proj = neg_acts[:, layer] @ vectors[layer]
        aucs.append((pos_proj[:, None] > neg_proj[None, :]).float().mean())
    return torch.stack(aucs)


def but(words, score=auc, **change):
    """A wrong solution: another reading, vector, text or score."""

    def solution(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors):
        args = (model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors)
        return solve(*args, score, **change)

    solution.__module__ = __name__
    return wrong(words)(solution)


def larger(pos, neg, vectors):
    return torch.maximum(auc(pos, neg, vectors), auc(neg, pos, vectors))


direction_ignored = but("larger of AUC and 1 - AUC", larger)
distance_from_chance = but("larger of AUC and 1 - AUC, or their distance", lambda *x: (auc(*x) - 0.5).abs())
twice_the_distance = but("wrong AUC|between 0 and 1", lambda *x: 2 * auc(*x) - 1)
own_vectors = but("wrong AUC", v=lambda vectors, pos, neg: pos.mean(0) - neg.mean(0))
one_vector_for_all = but("wrong AUC", v=lambda vectors, pos, neg: vectors[-1].expand_as(vectors))
vectors_reversed = but("wrong AUC", v=lambda vectors, pos, neg: vectors.flip(0))
answers_cut = but("wrong AUC", texts=lambda responses: [r[:5] for r in responses])
one_answer_for_all = but("wrong AUC", texts=lambda responses: responses[:1] * len(responses))
centred_apart = but("wrong AUC|same prompt", lambda pos, neg, v: auc(pos - pos.mean(0), neg - neg.mean(0), v))
all_blocks_together = but(
    "wrong AUC",
    lambda pos, neg, v: torch.full(
        (len(v),), auc(pos.flatten(0, 1)[:, None], neg.flatten(0, 1)[:, None], v.mean(0)[None]).item()
    ),
)
accuracy = but(
    "wrong AUC|with itself only",
    lambda pos, neg, v: (
        ((pos * v).sum(-1) > ((pos * v).sum(-1).mean(0) + (neg * v).sum(-1).mean(0)) / 2).float().mean(0)
    ),
)


@wrong("changed vectors in place")
def normalises_in_place(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors):
    vectors /= vectors.norm(dim=1, keepdim=True)
    return solve(model, tokenizer, questions, responses, pos_system_prompt, neg_system_prompt, vectors)
