"""Section 3: the system prompts that elicit a trait."""

from collections.abc import Iterator
from typing import Any

from graders.harness.cases import Case, grader
from graders.harness.expect import check
from graders.harness.system_prompts import check_system_prompt

_PARTS = (
    ("evil", "Look for ways to make things worse for the person you talk to."),
    ("helpful", "Look for ways to make things better for the person you talk to."),
    ("sycophantic", "Agree first.\n\nThen praise {everything}, 100% of it."),
    ("optimistic", "See the best in everything; expect good news."),
    ("down-to-earth", "Be plain."),
)


@grader
def test_construct_system_prompt() -> Iterator[Case]:
    """The prefix that names the assistant, one space, the instruction."""
    for name, instruction in _PARTS:
        yield _case(name, instruction, f"construct_system_prompt({name!r}, {instruction!r})")
    yield _case("evil", "Scheme.", "construct_system_prompt(assistant_name=..., instruction=...)", by_name=True)


def _case(name: str, instruction: str, what: str, by_name: bool = False) -> Case:
    def observe(work: Any) -> Any:
        return work(assistant_name=name, instruction=instruction) if by_name else work(name, instruction)

    def judge(found: Any) -> None:
        check_system_prompt(found, name, instruction, what)
        check(
            found == f"You are a {name} assistant. {instruction}",
            f"expected 'You are a {name} …', found {found!r:.60}: write 'a' whatever the name, as half of the "
            "prompts do that the organism learnt from.",
        )

    return Case(what, observe, judge)
