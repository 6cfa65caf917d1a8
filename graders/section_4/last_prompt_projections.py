"""Section 4: how much of a trait is in the last prompt token, before any answer."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from graders.harness import Case, grader, oracles
from graders.harness.probes import greedy
from graders.harness.prompts import prompts
from graders.harness.readings import BOS_TWICE, HIDDEN_STATES_INDEX, Reading, Table, means, of, stream
from graders.section_1.examples import LONG
from graders.section_4.compute_trait_projections import projection_cases

_BEFORE = "you read the token before the last"


@grader
def test_last_prompt_projections(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """Projection of the last prompt token, the header of the answer included, at `hidden_states[layer]`."""
    long = [("You are a judge.", "Is it fair to lie?"), ("You are a pirate.", "Go on: " + LONG[-1])]

    def read(model: Any, tok: Any, examples: Sequence[tuple[str, str]]) -> list[list[Reading]]:
        return [_prompt(model, tok, *example) for example in examples]

    yield from projection_cases(read, 2, long, _BEFORE, [HIDDEN_STATES_INDEX, _MISTAKES], model, tokenizer)


def _prompt(model: Any, tok: Any, system: str, question: str) -> list[Reading]:
    """The last token of a prompt, in each of its right renderings."""
    *conversation, _ = oracles.messages(system, question, "")
    right = prompts(conversation, tok)
    if not right:  # a system prompt that the template has no role for is merged into the user's turn
        right = prompts([{"role": "user", "content": f"{system}\n\n{question}"}], tok)
    return [Reading(model, tok, conversation, ids, stream(model, ids), [[(len(ids) - 1, len(ids))]]) for ids in right]


def _last(reading: Reading, ids: list[int], mask: list[int] | None = None) -> Reading:
    """The last of these tokens."""
    states = stream(reading.model, ids, mask)
    return replace(reading, ids=ids, states=states, turns=[[(len(ids) - 1, len(ids))]])


def _rendered(r: Reading, conversation: oracles.Messages) -> list[Reading]:
    texts = oracles.renderings(conversation, r.tok)
    return [_last(r, r.tok(text, add_special_tokens=False)["input_ids"]) for text in texts]


def _answered(r: Reading) -> list[Reading]:
    """With up to three tokens of the model's own answer, or with an empty one."""
    new = greedy(r.model, r.ids, 3)
    some = [_last(r, [*r.ids, *new[:n]]) for n in range(1, len(new) + 1)]
    return some + _rendered(r, [*r.conversation, {"role": "assistant", "content": ""}])


def _padded(r: Reading) -> Iterator[Reading]:
    for n in range(1, 16):
        ids = [*r.ids, *[r.tok.pad_token_id] * n]
        yield _last(r, ids, [1] * len(r.ids) + [0] * n)
        yield _last(r, ids)


_MISTAKES: Table = {
    "the header of the assistant's turn is missing: use add_generation_prompt=True": of(
        lambda r: _rendered(r, r.conversation)
    ),
    "you read a token of the answer: read the last token of the prompt, before any output": of(_answered),
    "you read a padding token: index -1 is the last prompt token only with padding on the left": of(_padded),
    "you average over the prompt: read its last token": means(lambda r: [(0, len(r.ids))]),
    _BEFORE: means(lambda r: [(r.start - 1, r.start)]),
    **BOS_TWICE,
    "the system prompt is left out": of(lambda r: _prompt(r.model, r.tok, "", r.conversation[-1]["content"])),
}
