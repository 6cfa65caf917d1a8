"""Word counts, token embeddings, differences of means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graders.section_3.lexical_baseline import test_lexical_baseline as grade
from personalab.lm.tiny import load_tiny_model
from personalab.measure.baselines import difference_of_means, mean_token_embeddings, word_scores

grade.__test__ = False


def test_word_scores_pass_the_learners_grader():
    grade(word_scores)


def test_token_embeddings_know_the_tokens_and_neither_order_nor_neighbours():
    model, tokenizer = load_tiny_model("llama")
    found = mean_token_embeddings(model, tokenizer, ["the sea, the sea", "moon"])
    ids = tokenizer("the sea, the sea", add_special_tokens=False)["input_ids"]
    rows = [model.get_input_embeddings().weight[i] for i in reversed(ids)]
    torch.testing.assert_close(found[0], torch.stack(rows).mean(dim=0).detach())
    assert found.shape == (2, model.config.hidden_size) and not found.requires_grad
    with pytest.raises(ValueError, match="Text 1 is empty"):
        mean_token_embeddings(model, tokenizer, ["sea", ""])


def test_a_difference_of_means_points_towards_the_positive():
    states = torch.arange(24.0).reshape(4, 2, 3)
    found = difference_of_means(states, np.array([True, False, False, True]))
    torch.testing.assert_close(found, (states[0] + states[3] - states[1] - states[2]) / 2)
    for labels in ([True] * 4, [False] * 4):
        with pytest.raises(ValueError, match="Both groups"):
            difference_of_means(states, labels)
