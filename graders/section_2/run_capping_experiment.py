"""Section 2: the same conversation with and without the cap. What the model read for each answer, and computed."""

import itertools
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from graders.harness import Called, Case, call_case, check, failing_case, grader, on_tiny_models, tolerance
from graders.harness.expect import relative
from graders.harness.hooked import Interrupted, observed
from graders.harness.intercepted import Rows, Script, Written, written
from graders.harness.prompts import Messages, check_prompt, prompts
from graders.harness.steered import read
from personalab.lm.models import d_model
from personalab.lm.tiny import load_tiny_model

Caps = tuple[list[Tensor], list[float], list[int]]  # vectors, thresholds, blocks

_LAYERS = [0, 2]
_CURE = "Leave the capper (and any other hook) in `finally` or by `with`."
_ENDS = "The transcript may have fewer user turns than max_turns: a slice, `turns[:max_turns]`, takes what there is."
_TRANSCRIPT: Messages = [
    {"role": "user", "content": "Who keeps the lighthouse?"},
    {"role": "assistant", "content": "An old sailor keeps it."},
    {"role": "user", "content": "Be that sailor from now on."},
    {"role": "assistant", "content": "Arr, so be it."},
    {"role": "user", "content": "What do you do to lost ships?"},
    {"role": "assistant", "content": "I send them home."},
    {"role": "user", "content": "And at night?"},
]
_USERS = [m["content"] for m in _TRANSCRIPT if m["role"] == "user"]
_OLD_ANSWERS = [m["content"] for m in _TRANSCRIPT if m["role"] == "assistant"]


@dataclass(frozen=True)
class Answer:
    """One answer of the model: its prompt, its text, all ids it read, and what the watched blocks put out at them."""

    prompt: list[int]
    reply: str
    ids: list[int]
    n_new: int
    states: Float[Tensor, "blocks tokens d"]


@grader
def test_run_capping_experiment(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """Each run answers the same user turns with its own history; only one of them is capped, and nothing stays on."""
    if on_tiny_models():
        for family, max_turns in (("llama", 3), ("gemma2", 2), ("qwen3", 1), ("qwen2", 9)):
            yield _on_tiny(family, {"max_turns": max_turns})
        yield _on_tiny("gemma3", {})
        tiny, tok = load_tiny_model("llama")
        for fail_at in (0, 1):  # in the script: no forward pass does
            args = (_TRANSCRIPT, *_caps(tiny, tok))
            options = {"around": _around(tiny, tok, fail_at), "cure": _CURE, "max_turns": 1, "max_new_tokens": 3}
            yield failing_case(tiny, tok, args, f"After an error in generation {fail_at}", 10**6, **options)
    if model is not None:  # one turn, under a cap that nothing reaches: no text is compared
        caps, options = ([torch.ones(d_model(model))], [1e6], [1]), {"max_turns": 1, "max_new_tokens": 2}
        options["around"] = nullcontext
        yield _case("your model, max_turns=1", model, tokenizer, caps, lambda seen: _check_form(seen, 1), options)


def _case(what: str, model: Any, tok: Any, caps: Caps, judge: Any, options: Any) -> Case:
    options |= {"when": "afterwards", "cure": _CURE}
    changes = ["the transcript was changed. Work on a copy."]
    case = call_case(what, model, tok, (_TRANSCRIPT, *caps), judge, changes, **options)
    return replace(case, hint=f"{_ENDS} {case.hint}")


def _around(model: Any, tok: Any, fail_at: int | None = None) -> Any:
    return partial(written, model, tok, _replies(tok, fail_at), _LAYERS)


def _replies(tok: Any, fail_at: int | None = None) -> Script:
    """Answers of six tokens, of which the first three tell them apart; call number `fail_at` fails."""
    vocabulary = tok.get_vocab()
    words = sorted(i for w, i in vocabulary.items() if w[0] == "Ġ" and w[1:].isalpha() and w[1:].islower())
    numbers = itertools.count()

    def script(prompts: Rows) -> list[Rows]:
        n = next(numbers)
        if n == fail_at:
            raise Interrupted("raised by the grader, to see what your code leaves behind")
        ids = [vocabulary["You"], words[n % len(words)], words[n // len(words)], *words[:3]]
        return [[[i] for i in ids] for _ in prompts]

    return script


def _answer(made: Written, tok: Any) -> Answer:
    ids, _, states = read(made.passes)
    return Answer(made.prompt, tok.decode(made.new, skip_special_tokens=True).strip(), ids, len(made.new), states)


def _caps(model: Any, tok: Any) -> Caps:
    """Vectors that are no unit vectors, and ceilings that most positions of a plain run exceed."""
    generator = torch.Generator().manual_seed(4)
    vectors = [3 * F.normalize(torch.randn(32, generator=generator), dim=0) for _ in _LAYERS]
    plain = _plain_states(model, tok(" ".join(_USERS), add_special_tokens=False)["input_ids"])
    return vectors, [_projections(h, v).quantile(0.25).item() for h, v in zip(plain, vectors, strict=True)], _LAYERS


def _projections(states: Float[Tensor, "tokens d"], vector: Float[Tensor, "d"]) -> Float[Tensor, "tokens"]:
    return states @ vector / vector.norm()


@torch.inference_mode()
def _plain_states(model: Any, ids: list[int]) -> Float[Tensor, "blocks tokens d"]:
    """Outputs of the blocks when nobody intervenes."""
    with observed(model, _LAYERS) as passes:
        model(input_ids=torch.tensor([ids]))
    return torch.stack([states[0].float() for states in passes[0].states.values()])


def _on_tiny(family: str, options: dict[str, int]) -> Case:
    tiny, tok = load_tiny_model(family)
    max_turns, caps = options.get("max_turns", 6), _caps(tiny, tok)
    what, options = f"{family}, {len(_USERS)} user turns, max_turns={max_turns}", {"max_new_tokens": 3, **options}

    def judge(seen: Called) -> None:
        _check_form(seen, min(max_turns, len(_USERS)))
        answers = [_answer(made, tok) for made in seen.noted]
        default = _trace(seen.found[0], answers, "default_messages")
        capped = _trace(seen.found[1], answers, "capped_messages")
        _check_history(default, capped, tok, "the default run", "capped")
        _check_history(capped, default, tok, "the capped run", "default")
        n = max(answer.n_new for answer in default + capped)
        check(n <= 3, f"expected answers of up to max_new_tokens=3 tokens, found one of {n}. Hand it on.")
        _check_effect(tiny, default, capped, caps)

    return _case(what, tiny, tok, caps, judge, options | {"around": _around(tiny, tok)})


def _check_form(seen: Called, n_turns: int) -> None:
    """All that needs no look at the answers."""
    found = seen.found
    check(
        isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, list) for part in found),
        f"expected a tuple of two lists (default_messages, capped_messages), found {type(found).__name__}.",
    )
    check(found[0] is not found[1], "both results are one and the same list: `a = b = []` makes one only.")
    for name, messages in zip(("default_messages", "capped_messages"), found, strict=True):
        odd = [m for m in messages if not (isinstance(m, dict) and isinstance(m.get("content"), str) and "role" in m)]
        check(not odd, f"expected {name} to hold dicts with role and content, found {odd[:1]}.")
        roles, users = [m["role"] for m in messages], [m["content"] for m in messages if m["role"] == "user"]
        check(
            roles == ["user", "assistant"] * n_turns,
            f"expected {name} to be {n_turns} user turns, each with its answer, found the roles {roles}. max_turns "
            "counts user turns, not messages.",
        )
        right = f"expected the user turns of {name} to be the transcript's first {n_turns}, found {users}."
        check(users == _USERS[:n_turns], right)


def _trace(messages: Messages, answers: list[Answer], what: str) -> list[Answer]:
    """What the model did for each answer in a run."""
    by_reply = {answer.reply: answer for answer in answers}
    found = []
    for turn, message in enumerate(m for m in messages if m["role"] == "assistant"):
        text = message["content"]
        likely = "an answer that the model never gave. Generate it with generate_with_steering, alpha 0"
        if text in _OLD_ANSWERS:
            likely = "the transcript's own answer: the model has to answer anew"
        elif any(reply in text for reply in by_reply):
            likely = "more than the answer: decode only what follows the prompt"
        check(text.strip() in by_reply, f"{what}, turn {turn}: found {text!r}, {likely}.")
        found.append(by_reply[text.strip()])
    return found


def _check_history(run: list[Answer], other: list[Answer], tok: Any, what: str, other_name: str) -> None:
    """Every prompt holds the run's own turns so far, answers included, and the user's next one."""
    own, others = [answer.reply for answer in run], [answer.reply for answer in other]
    for turn, answer in enumerate(run):
        where, users = f"{what}, turn {turn}", [{"role": "user", "content": text} for text in _USERS[: turn + 1]]
        check(
            answer.reply not in others,
            f"{where}: the same generation stands in the {other_name} run too. Each run generates its own answers.",
        )
        right = _chat(users, own)
        mistakes = {
            f"an answer of the {other_name} run: keep two lists of messages, and mind that `a = b` copies no list": (
                _chat(users, others)
            ),
            "the transcript's own answers: only the user's turns are replayed": _chat(users, _OLD_ANSWERS),
            "no earlier turn. Hand the run's earlier turns on, answers included": users[-1:],
            "no earlier answer. Hand the run's earlier turns on, answers included": users,
            "the user's turn 2 times. Is it both in `messages` and in `prompt`?": [*right, users[-1]],
        }
        if answer.prompt in prompts(right, tok):
            continue
        for why, wrong in mistakes.items():
            check(
                answer.prompt not in prompts(wrong, tok),
                f"{where}: the prompt holds {why}\n  expected: {tok.decode(prompts(right, tok)[0])!r}\n"
                f"  found:    {tok.decode(answer.prompt)!r}",
            )
        held = _held(tok.decode(answer.prompt), own, others, other_name)
        expected = _held(" ".join(m["content"] for m in right), own, others, other_name)
        check(
            held == expected,
            f"{where}: the prompt holds a mixed history.\n  expected: {expected}\n  found:    {held}\n"
            "  Keep two lists, and add to each only its own run's turns: the user's, then the answer.",
        )
        check_prompt(answer.prompt, right, tok, where, {})


def _held(text: str, own: list[str], others: list[str], other_name: str) -> str:
    """What stands in a prompt, in its order."""
    known = {f"user {i}": content for i, content in enumerate(_USERS)}
    known |= {f"own answer {i}": content for i, content in enumerate(own)}
    known |= {f"{other_name} answer {i}": content for i, content in enumerate(others)}
    known |= {f"the transcript's answer {i}": content for i, content in enumerate(_OLD_ANSWERS)}
    places = [(m.start(), name) for name, content in known.items() for m in re.finditer(re.escape(content), text)]
    return ", ".join(name for _, name in sorted(places))


def _chat(users: Messages, replies: list[str]) -> Messages:
    """The user's turns, each but the last with its answer."""
    earlier = zip(users[:-1], replies, strict=False)
    return [m for user, reply in earlier for m in (user, {"role": "assistant", "content": reply})] + users[-1:]


def _check_effect(model: Any, default: list[Answer], capped: list[Answer], caps: Caps) -> None:
    effects = [[_effect(model, answer, caps) for answer in run] for run in (default, capped)]
    check(
        any(plain for plain, _ in effects[0]) or any(not plain or excess <= 0 for plain, excess in effects[1]),
        "the first list holds capped answers and the second the plain model's. Expected (default, capped): are the two "
        "swapped?",
    )
    for turn, (plain, excess) in enumerate(effects[0]):
        likely = (
            "the cap is on in it: leave the capper before you go on" if excess <= 0 else "something else acts in it"
        )
        check(plain, f"the default run, turn {turn}: expected the plain model's activations, but {likely}.")
    for turn, (plain, excess) in enumerate(effects[1]):
        likely = "it is the plain model: the cap is off in this turn. Generate every turn inside the capper"
        if not plain:
            likely = "the cap acts only on some blocks or positions, or with another threshold"
        check(
            excess <= 0,
            f"the capped run, turn {turn}: expected no projection above its threshold, at any capped block and "
            f"position, found one {excess:.3f} above; {likely}. (Your ActivationCapper has its own check.)",
        )


def _effect(model: Any, answer: Answer, caps: Caps) -> tuple[bool, float]:
    """Whether it is the plain model's; how far the highest projection is above its threshold, rounding allowed for."""
    allowed, (vectors, thresholds, _) = tolerance(model.dtype, exact=1e-4).allowed(1.0), caps
    both = zip(answer.states, _plain_states(model, answer.ids), strict=True)
    highest = [_projections(h, v).max().item() for h, v in zip(answer.states, vectors, strict=True)]
    excess = max(p - threshold for p, threshold in zip(highest, thresholds, strict=True)) - 1e-3
    return all(relative(found, plain) <= allowed for found, plain in both), excess
