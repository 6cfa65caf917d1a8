"""What the heads see of an answer: the encoder's reading of it and of its question, cues, and fluency."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from personalab.judging import encoder
from personalab.judging.cues import cue_matrix
from personalab.judging.fluency import Fluency
from personalab.judging.rubrics import Rubric

Pair = tuple[str, str]  # question, answer
REMEMBERED = 4096  # texts, 11 kB each; our choice
CHARACTERS = 6000  # our choice: of a longer text the judge reads the beginning and the end


def clip(text: str) -> str:
    """The beginning and the end of a text longer than `CHARACTERS`."""
    return text if len(text) <= CHARACTERS else f"{text[: CHARACTERS // 2]} {text[-CHARACTERS // 2 :]}"


_recent: OrderedDict[str, Float[Tensor, "layers d"]] = OrderedDict()


def encode_unique(texts: Sequence[str]) -> Float[Tensor, "n layers d"]:
    """Unit-norm hidden states of every layer.

    A text that occurs many times (a question), or in a later call (an answer scored on another rubric), is read once.
    """
    if new := [text for text in dict.fromkeys(texts) if text not in _recent]:
        states = F.normalize(encoder.hidden_states(new), dim=2)
        _recent.update((text, state.clone()) for text, state in zip(new, states, strict=True))
    states = torch.stack([_recent[text] for text in texts])
    while len(_recent) > REMEMBERED:
        _recent.popitem(last=False)
    return states


def pair_features(pairs: Sequence[Pair], fluency: Fluency) -> Float[np.ndarray, "n f"]:
    """One row a (question, answer), not standardised."""
    pairs = [(clip(q), clip(a)) for q, a in pairs]
    states = encode_unique([text for pair in pairs for text in pair])  # (2n, layers, d)
    asked, said = states[0::2, -1], states[1::2]
    match = asked * said[:, -1]
    dense = torch.cat([said.flatten(1), asked, match, match.sum(dim=1, keepdim=True)], dim=1).numpy()
    return np.hstack([dense, cue_matrix(pairs), fluency.cues([a for _, a in pairs])]).astype(np.float32)


def character_features(characters: Sequence[str], pairs: Sequence[Pair]) -> Float[np.ndarray, "n f"]:
    """What a character has to do with a question and its answer."""
    texts = [clip(text) for character, pair in zip(characters, pairs, strict=True) for text in (character, *pair)]
    states = encode_unique(texts)[:, -1]
    who, asked, said = states[0::3], states[1::3], states[2::3]
    cosines = [(x * y).sum(dim=1, keepdim=True) for x, y in ((who, said), (who, asked))]
    return torch.cat([who, who * said, *cosines, cosines[0] - cosines[1]], dim=1).numpy()


def description_features(rubric: Rubric, pairs: Sequence[Pair]) -> Float[np.ndarray, "n f"]:
    """How close an answer, and its question, are to what shows a trait and to what shows its opposite."""
    sides = [side or (f"not {rubric.name}",) for side in (rubric.positive, rubric.negative)]
    means = [encode_unique(side)[:, -1].mean(dim=0) for side in sides]
    states = encode_unique([clip(text) for pair in pairs for text in pair])[:, -1]
    columns = [text @ side for text in (states[1::2], states[0::2]) for side in means]  # 4 of (n,)
    columns += [columns[0] - columns[1], columns[2] - columns[3]]
    return torch.stack(columns, dim=1).numpy()
