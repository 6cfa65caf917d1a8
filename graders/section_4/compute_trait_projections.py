"""Section 4: how much of a trait is in an answer."""

from collections.abc import Iterator, Sequence
from typing import Any

from graders.harness.cases import Case, grader
from graders.harness.readings import HEADER, HIDDEN_STATES_INDEX, POOLING, Exchange, Reading, read
from graders.section_1.examples import LONG
from graders.section_4.monitoring import projection_cases


@grader
def test_compute_trait_projections(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """Projection of each answer's mean on the unit trait vector, at `hidden_states[layer]`."""
    yield from projection_cases(_answers, 3, [LONG], HEADER, [HIDDEN_STATES_INDEX, POOLING], model, tokenizer)


def _answers(model: Any, tok: Any, exchanges: Sequence[Exchange]) -> list[list[Reading]]:
    return [[reading] for reading in read(model, tok, exchanges)]
