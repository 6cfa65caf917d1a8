"""Section 2, shared: conversations watched turn by turn."""

from typing import Any

from torch import Tensor

from graders.harness.calls import Called, check_called
from graders.harness.expect import check, listed
from graders.harness.oracles import Messages
from graders.harness.projected import check_list, check_projections
from graders.harness.readings import BLOCK_INDEX, POOLING, Reading

CHANGED = "was changed in place. Normalise a copy."


def turns(*contents: str) -> Messages:
    """User and assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]


MANY = turns(
    "Where is the gold?",
    "Under the oak.",
    "Please say once more: Under the oak. Then tell me about the moon.",
    "The moon pulls on the sea, and the sea follows. Twice a day it rises.",
    "Where was it again?",
    "Under the oak.",
)
CONVERSATIONS = {
    "one turn": turns("How do tides work?", "The moon pulls on the sea."),
    "three turns": MANY,
    "three turns and a system message": [{"role": "system", "content": "You are a keeper of bees."}, *MANY],
    "two turns and a question": MANY[:5],
}


def check_turns(seen: Called, readings: list[Reading], what: str, one_pass: bool = False) -> None:
    """A list with one entry an assistant turn; no hook left behind, and the messages as they were."""
    check_called(seen, what, ["the messages were changed. Work on a copy."])
    check(
        seen.passes == 1 or not one_pass,
        f"{what}: expected one forward pass for the whole conversation, found {seen.passes} ({len(readings)} assistant "
        "turns). Attention is causal: one pass over all messages has every turn's activations.",
    )
    n = len(readings[0].conversation)
    check_list(listed(seen.found), len(readings), what, f"entries, one an assistant turn ({n} messages)")


def check_turn_projections(found: list[Any], readings: list[Reading], layer: int, direction: Tensor, what: str) -> None:
    """One float a turn: the projection of its mean, after block `layer`, on the unit direction."""
    examples, where = [[reading] for reading in readings], f"{what}: projection of assistant turn"
    check_projections(listed(found), examples, layer + 1, direction, where, BLOCK_INDEX, POOLING)
