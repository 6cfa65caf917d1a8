import torch

import utils
from checks.bank import right, wrong
from graders.harness import oracles


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
