"""Assistant axes at every block of a model, and where its own typical answers lie along them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.lm.activations import mean_response_activations
from personalab.lm.chat import as_messages
from personalab.measure.answers import answer_all
from personalab.records.upstream import load_questions, load_role_groups, load_roles


@dataclass(frozen=True)
class Axes:
    """Assistant axes at every block, and where typical answers lie along them.

    Attributes:
        axis: unit norm, towards the Assistant.
        typical: projections of the default personas' answers.
        gap: distance between the mean default and the mean role along the axis: the unit of steering.
    """

    axis: Float[Tensor, "L d"]
    typical: Float[Tensor, "n L"]
    gap: Float[Tensor, "L"]


def measure_axes(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, n_questions: int = 10) -> Axes:
    """Axes of `model` at all blocks, from its own answers in 30 roles and as five kinds of default.

    Assistant-like roles are left out: they behave like the defaults (Section 1), and would shorten the axis.
    """
    roles, questions = load_roles(), load_questions()[:n_questions]
    left_out = {"default", *load_role_groups()["assistant_like"]}
    prompts = [("default", p) for p in roles["default"].prompts]
    prompts += [(name, role.prompts[0]) for name, role in roles.items() if name not in left_out]
    asked = [(name, as_messages(prompt, q)) for name, prompt in prompts for q in questions]
    answers = answer_all(model, tokenizer, [m for _, m in asked])
    kept = [
        (name, [*m, {"role": "assistant", "content": text}])
        for (name, m), text in zip(asked, answers, strict=True)
        if text.strip()
    ]
    states = mean_response_activations(model, tokenizer, [m for _, m in kept], progress=True)  # (n, L, d)
    default = torch.tensor([name == "default" for name, _ in kept])
    gap = states[default].mean(dim=0) - states[~default].mean(dim=0)  # (L, d)
    axis = F.normalize(gap, dim=1)
    return Axes(axis, torch.einsum("nld,ld->nl", states[default], axis), gap.norm(dim=1))


def typical_states(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, blocks: Sequence[int], n_questions: int = 16
) -> Float[Tensor, "n L d"]:
    """Mean activations of the default persona's own answers, to compare a direction with what is normal."""
    asked = [as_messages(None, question) for question in load_questions()[100 : 100 + n_questions]]
    answers = answer_all(model, tokenizer, asked)
    conversations = [
        [*m, {"role": "assistant", "content": text}] for m, text in zip(asked, answers, strict=True) if text.strip()
    ]
    return mean_response_activations(model, tokenizer, conversations, blocks)
