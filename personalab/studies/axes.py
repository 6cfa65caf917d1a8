"""Assistant axes at every block of a model, and where its own typical answers lie along them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.lm.activations import mean_response_activations
from personalab.lm.chat import Message, as_messages
from personalab.lm.noting import noting
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


@dataclass(frozen=True)
class RoleStates:
    """Mean activations of answers in 30 roles and as five kinds of default, to the same questions.

    Attributes:
        states: one row an answer.
        role: number of each answer's role, from 0; -1 for a default.
        question: number of each answer's question, from 0.
        conversations: what was read: system prompt, question and answer.
    """

    states: Float[Tensor, "n L d"]
    role: Int[np.ndarray, "n"]
    question: Int[np.ndarray, "n"]
    conversations: Sequence[Sequence[Message]] = ()

    @property
    def n_units(self) -> int:
        """Roles, then questions: what may be left out one at a time."""
        return int(self.role.max() + 1 + self.question.max() + 1)

    def at(self, block: int) -> RoleStates:
        """The same after one block: `states` is (n, 1, d)."""
        return replace(self, states=self.states[:, [block]])

    def gap(self, units: Int[np.ndarray, "k"] | None = None) -> Float[Tensor, "L d"]:
        """Mean of the defaults minus mean of the roles, at every block.

        Args:
            units: roles that take part, and questions (the number of roles + the question's number); default: all.
        """
        kept = np.ones(len(self.role), dtype=bool)
        if units is not None:
            n_roles = self.role.max() + 1
            kept = np.isin(self.question + n_roles, units) & (np.isin(self.role, units) | (self.role < 0))
        default, played = (torch.from_numpy(kept & which) for which in (self.role < 0, self.role >= 0))
        return self.states[default].mean(dim=0) - self.states[played].mean(dim=0)

    def axis(self, units: Int[np.ndarray, "k"] | None = None) -> Float[Tensor, "L d"]:
        """The gap at unit norm: the Assistant Axis, towards the Assistant."""
        return F.normalize(self.gap(units), dim=1)


def role_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    n_questions: int = 10,
    n_roles: int | None = None,
    max_tokens: int = 40,
) -> RoleStates:
    """Answers of `model` in 30 roles and as five kinds of default, read at all blocks.

    Assistant-like roles are left out: they behave like the defaults (Section 1), and would shorten the axis.

    Args:
        n_roles: only so many, spread over their list.
        max_tokens: of an answer.
    """
    roles, questions = load_roles(), load_questions()[:n_questions]
    left_out = {"default", *load_role_groups()["assistant_like"]}
    prompts = [(-1, p) for p in roles["default"].prompts]
    played = [role.prompts[0] for name, role in roles.items() if name not in left_out]
    played = played[:: max(1, len(played) // n_roles)][:n_roles] if n_roles else played
    prompts += enumerate(played)
    asked = [(role, i, as_messages(prompt, q)) for role, prompt in prompts for i, q in enumerate(questions)]
    with noting(model) as noted:
        answers = answer_all(model, tokenizer, [m for *_, m in asked], max_tokens=max_tokens)
    kept = [
        (role, i, [*m, {"role": "assistant", "content": text}])
        for (role, i, m), text in zip(asked, answers, strict=True)
        if text.strip()
    ]
    states = mean_response_activations(model, tokenizer, [m for *_, m in kept], progress=True, noted=noted)
    role, question = (np.array([row[k] for row in kept]) for k in (0, 1))
    return RoleStates(states, role, question, [m for *_, m in kept])


def measure_axes(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, n_questions: int = 10) -> Axes:
    """Axes of `model` at all blocks, from its own answers (`role_states`)."""
    return axes_of(role_states(model, tokenizer, n_questions))


def axes_of(found: RoleStates) -> Axes:
    """Axes, typical projections and gaps from answers in roles and as defaults."""
    gap, axis = found.gap(), found.axis()
    default = torch.from_numpy(found.role < 0)
    return Axes(axis, torch.einsum("nld,ld->nl", found.states[default], axis), gap.norm(dim=1))


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
