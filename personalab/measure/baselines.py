"""What a vector must beat before it is said to hold a trait: words, token embeddings, and the prompt alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def word_scores(
    train_texts: Sequence[str], train_labels: Sequence[int] | Bool[np.ndarray, "n"], texts: Sequence[str]
) -> Float[np.ndarray, "texts"]:
    """Log-odds of the label by a logistic regression on word counts that has seen the training texts alone.

    Case, punctuation and order of words don't matter; unseen words count nothing.

    Raises:
        ValueError: for lists of unequal length, or if one of the two labels is missing.
    """
    from sklearn.feature_extraction.text import CountVectorizer  # here: it takes a second to import
    from sklearn.linear_model import LogisticRegression

    labels = np.asarray(train_labels, dtype=bool)
    if len(labels) != len(train_texts) or labels.all() or not labels.any():
        raise ValueError(f"{len(train_texts)} texts need a label each, and both labels: {labels.sum()} are positive.")
    counter = CountVectorizer()
    regression = LogisticRegression(max_iter=1000).fit(counter.fit_transform(train_texts), labels)
    return np.asarray(regression.decision_function(counter.transform(texts)))


def mean_token_embeddings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> Float[Tensor, "n d"]:
    """Each text's mean row of the model's embedding matrix, float32: what the model reads before any block.

    A direction in this space knows the tokens of a text and neither their order nor what stands around them.

    Raises:
        ValueError: for a text without tokens.
    """
    matrix = model.get_input_embeddings().weight.detach()
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    if empty := [i for i, tokens in enumerate(ids) if not tokens]:
        raise ValueError(f"Text {empty[0]} is empty: it has no mean embedding.")
    return torch.stack([matrix[torch.tensor(tokens, device=matrix.device)].float().mean(dim=0).cpu() for tokens in ids])


def difference_of_means(
    states: Float[Tensor, "n ... d"], positive: Sequence[int] | Bool[np.ndarray, "n"]
) -> Float[Tensor, "... d"]:
    """Mean of the positive rows minus mean of the others, pointing towards the positive ones.

    With readings of *identical* texts, positive where a prompt asked for the trait, this is the prompt-only vector:
    what being told leaves behind where the answer has nothing to tell.

    Raises:
        ValueError: if there are no positive or no other rows.
    """
    mask = torch.as_tensor(np.asarray(positive, dtype=bool), device=states.device)
    if mask.all() or not mask.any():
        raise ValueError(f"Both groups are needed: {int(mask.sum())} of {len(mask)} rows are positive.")
    return states[mask].mean(dim=0) - states[~mask].mean(dim=0)
