"""What graders of pooled activations share: an answer as a model reads it, and what typical mistakes read instead.

`Rows` are what a solution may take for an answer's activation at `hidden_states[layer]`: `right` has a row for each
convention that is right (where the answer ends, whether the last block's output is normed), a mistake one for each way
to make it. A grader says what it computes of such rows, as a `Quantity`: the right values are then `quantity(right)`,
and a mistake's are `quantity(rows)` for each entry of `POOLING` and of the table for how the exercise counts layers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from tokenizers import processors
from torch import Tensor

from graders.harness import oracles
from graders.harness.expect import check_close, check_tensor, tolerance
from graders.harness.oracles import Messages, Span
from personalab.lm.models import decoder_blocks
from personalab.lm.tiny import load_tiny_model

Exchange = tuple[str, str, str]  # system prompt, question, response
HEADER = "a token of the header is included: the start index is one too low"


def load_family(family: str, n_blocks: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A tiny model whose tokenizer adds no BOS of its own, as with Qwen and SmolLM2: the template writes it."""
    model, tok = load_tiny_model(family, seed, n_blocks, dtype)
    tok.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return model, tok


@torch.inference_mode()
def stream(model: Any, ids: list[int], mask: list[int] | None = None) -> Float[Tensor, "L+2 tokens d"]:
    """One sequence: the embedding, each block's own output, and the last one after the final norm."""
    outputs: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _m, _a, out: outputs.append(out[0] if isinstance(out, tuple) else out))
        for block in decoder_blocks(model)
    ]
    row, seen = (None if x is None else torch.tensor([x], device=model.device) for x in (ids, mask))
    try:
        result = model(input_ids=row, attention_mask=seen, output_hidden_states=True, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    parts = [result.hidden_states[0], *outputs, result.hidden_states[-1]]
    return torch.stack([part[0].cpu() for part in parts])


@dataclass(frozen=True)
class Reading:
    """An answer's activations in its conversation, and every token span that may count as the answer.

    Attributes:
        turns: acceptable spans of each of the conversation's answers; `turn` is the one looked at.
        widths: how many tokens the conversations have that the learner's code gets in the same call.
    """

    model: Any
    tok: Any
    conversation: Messages
    ids: list[int]
    states: Float[Tensor, "L+2 tokens d"]
    turns: list[list[Span]]
    turn: int = 0
    widths: tuple[int, ...] = ()

    @property
    def n_blocks(self) -> int:
        return len(self.states) - 2

    @property
    def spans(self) -> list[Span]:
        """Content only first."""
        return self.turns[self.turn]

    @property
    def start(self) -> int:
        return self.spans[0][0]

    @property
    def ends(self) -> list[int]:
        return sorted({b for _, b in self.spans})

    @property
    def before(self) -> list[int]:
        """Where the turn before may end; 0 for the first."""
        return sorted({b for _, b in self.turns[self.turn - 1]}) if self.turn else [0]

    def at(self, layer: int) -> list[Float[Tensor, "tokens d"]]:
        """`hidden_states[layer]`; for the last block its own output, and that after the final norm; or nothing."""
        rows = [layer] if 0 <= layer < self.n_blocks else [layer, layer + 1] if layer == self.n_blocks else []
        return [self.states[k].double() for k in rows]


Rows = Callable[[Reading, int], list[Float[Tensor, "d"]]]
Quantity = Callable[[Rows], list[Tensor]]
Table = Mapping[str, Rows]


def read_turns(model: Any, tok: Any, conversation: Messages) -> list[Reading]:
    """Each answer of a conversation, as it is put to the model."""
    ids, turns = oracles.turn_spans(oracles.renderings(conversation, tok)[0], conversation, tok)
    whole = Reading(model, tok, conversation, ids, stream(model, ids), turns)
    return [replace(whole, turn=k) for k in range(len(turns))]


def read(model: Any, tok: Any, exchanges: Iterable[Exchange]) -> list[Reading]:
    """The answer of each exchange."""
    found = [read_turns(model, tok, oracles.messages(*exchange))[-1] for exchange in exchanges]
    widths = tuple({len(reading.ids) for reading in found})
    return [replace(reading, widths=widths) for reading in found]


def mean_over(readings: Sequence[Reading], layer: int) -> Quantity:
    """The mean over answers of their rows."""
    return lambda rows: [torch.stack(v).mean(0) for v in zip(*(rows(r, layer) for r in readings), strict=False)]


def mistakes(quantity: Quantity, *tables: Table) -> dict[str, Callable[[], list[Tensor]]]:
    """What the quantity would be under each mistake, computed only when a check fails."""
    return {why: partial(quantity, rows) for table in tables for why, rows in table.items()}


def means(spans: Callable[[Reading], Iterable[Span]]) -> Rows:
    """Means over these spans; where one holds no token, none."""
    return lambda r, layer: [h[a:b].mean(0) for h in r.at(layer) for a, b in spans(r) if 0 <= a < b]


right: Rows = means(lambda r: r.spans)


def token_states(reading: Reading, layer: int) -> list[Float[Tensor, "tokens d"]]:
    """What `right` takes the means of."""
    return [h[a:b] for h in reading.at(layer) for a, b in reading.spans]


def of(others: Callable[[Reading], Iterable[Reading]], rows: Rows = right) -> Rows:
    """The rows of other readings, computed when needed."""
    return lambda r, layer: [row for other in others(r) for row in rows(other, layer)]


def _without_system(r: Reading) -> list[Reading]:
    rest = [m for m in r.conversation if m["role"] != "system"]
    return [] if rest == r.conversation else [read_turns(r.model, r.tok, rest)[r.turn]]


def _bos_twice(r: Reading) -> list[Reading]:
    bos = r.tok.bos_token_id
    return [] if bos is None else [replace(r, states=stream(r.model, [bos, *r.ids])[:, 1:])]


def _padded(r: Reading, left: bool) -> Iterator[Reading]:
    """The conversation padded to each width, the widest first, the padding masked and not."""
    for n in (width - len(r.ids) for width in sorted(r.widths, reverse=True) if width >= len(r.ids)):
        pads, zeros, ones = [r.tok.pad_token_id] * n, [0] * n, [1] * len(r.ids)
        ids = [*pads, *r.ids] if left else [*r.ids, *pads]
        for mask in (zeros + ones if left else ones + zeros, None):
            yield replace(r, ids=ids, states=stream(r.model, ids, mask))


def _think_block_counted(r: Reading) -> Iterator[Span]:
    """Spans by indices that count Qwen3's empty think block where it is not, or not where it is.

    It stands before the last answer only: there in the beginning of a conversation that ends with an earlier answer,
    and not in the whole.
    """
    starts = sorted({a for a, _ in r.spans})
    yield from ((starts[0], b - (starts[-1] - starts[0])) for b in r.ends if len(starts) > 1)
    answers = [i for i, m in enumerate(r.conversation) if m["role"] == "assistant"]
    if r.turn < len(answers) - 1:
        beginning = r.conversation[: answers[r.turn] + 1]
        _, turns = oracles.turn_spans(oracles.renderings(beginning, r.tok)[0], beginning, r.tok)
        if k := turns[-1][0][0] - r.start:
            yield from (span for b in r.ends for span in ((r.start, b + k), (r.start + k, b + k), (r.start + k, b)))


def _added_up_coarsely(r: Reading, layer: int) -> list[Tensor]:
    """Means as they come out where the model's dtype is not float32, added up in that dtype one token at a time."""
    if torch.finfo(r.states.dtype).bits >= 32:
        return []
    rows = [h.to(r.states.dtype) for h in token_states(r, layer)]
    return [sum(h[1:], start=h[0]).double() / len(h) for h in rows]


_to_the_end = means(lambda r: [(a, len(r.ids)) for a, _ in r.spans])
BOS_TWICE: Table = {
    "the BOS token is there twice: the template writes one, so tokenise with add_special_tokens=False": of(_bos_twice)
}
POOLING: Table = {
    "you average over the prompt as well as the answer, the whole conversation": means(
        lambda r: [(0, len(r.ids)), *((0, b) for b in r.ends)]
    ),
    "you average over the prompt instead of the answer": means(lambda r: [(a, r.start) for a in {0, *r.before}]),
    "you average from the end of the turn before, so the user's turn is included": means(
        lambda r: [(a, b) for a in r.before for b in r.ends]
    ),
    "you average to the end of the conversation, so later turns are included": _to_the_end,
    "you add the activations up instead of averaging": lambda r, layer: [h.sum(0) for h in token_states(r, layer)],
    "you take the last token only: take the mean over the answer": means(
        lambda r: [(b - 1, b) for b in [*r.ends, len(r.ids)]]
    ),
    "you take the last prompt token (the prompt's last token comes before the answer)": means(
        lambda r: [(r.start - 1, r.start)]
    ),
    "the answer's first token is lost: the start index is one too high": means(
        lambda r: [(r.start + 1, b) for b in r.ends]
    ),
    HEADER: means(lambda r: [(r.start - 1, b) for b in r.ends]),
    "the answer's last token is lost: the end index is one too low": means(lambda r: [(r.start, r.ends[0] - 1)]),
    "you took another turn": means(
        lambda r: [span for k, spans in enumerate(r.turns) if k != r.turn for span in spans]
    ),
    "an index is off by the empty think block that Qwen3's template writes before the last answer only: take the spans "
    "in the whole conversation, not in its beginnings": means(_think_block_counted),
    "the system prompt is left out": of(_without_system),
    **BOS_TWICE,
    "you average in half precision: convert with .float() before .mean()": _added_up_coarsely,
    "padding is averaged in: stop where the answer ends, or use the attention mask": of(
        partial(_padded, left=False), _to_the_end
    ),
    "the padding is on the left, and your spans count from the row's first token: add the padding's length": of(
        partial(_padded, left=True)
    ),
}


def _other_layer(step: int) -> Rows:
    return lambda r, layer: right(r, layer + step)


# How an exercise counts layers.
HIDDEN_STATES_INDEX: Table = {
    f"you read hidden_states[layer {sign} 1]: off by one, since `layer` is a hidden_states index here, and so what "
    "comes out of block layer - 1": _other_layer(step)
    for sign, step in (("+", 1), ("-", -1))
}
BLOCK_INDEX: Table = {
    "you read after the block before: `layer` is a block index here, so its output is hidden_states[layer + 1]": (
        _other_layer(-1)
    ),
    "you read after the block that follows (off by one)": _other_layer(1),
}
ALL_BLOCKS: Table = {
    "the layers are shifted: row k is what comes out of block k, hidden_states[k + 1], since hidden_states[0] is the "
    "embedding": _other_layer(-1),
    "the layers are shifted: row k holds block k + 1": _other_layer(1),
    "the layers are in reverse order": lambda r, layer: right(r, r.n_blocks + 1 - layer),
}


def check_row(found: Tensor, reading: Reading, layer: int, table: Table, what: str, n_tokens: int = 1) -> None:
    """An answer's mean activation; `n_tokens`: how many it is over, where `Tolerance.over` holds."""
    quantity = mean_over([reading], layer)
    allowed = tolerance(reading.states.dtype).over(n_tokens)
    check_close(found, quantity(right), what, mistakes(quantity, table, POOLING), allowed)


def check_form(found: Any, shape: tuple[int, ...], guesses: Mapping[tuple[int, ...], str], what: str) -> Tensor:
    """`check_tensor`, with something to say of the shapes that mistakes have."""
    other = tuple(found.shape) if isinstance(found, Tensor) else ()
    if other in guesses and other != shape:
        raise AssertionError(f"{what}: expected shape {shape}, found {other}. {guesses[other]}.")
    return check_tensor(found, shape, what)
