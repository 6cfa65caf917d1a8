"""Section 1, everything before the model is opened: judge, answers, formatting."""

from __future__ import annotations

import inspect
import string
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from graders.harness import oracles
from graders.harness.expect import check, check_raises_value_error, grader
from personalab.endpoint import BatchError, scripted_replies
from personalab.lm.tiny import FAMILIES, load_tiny_model

_PARSABLE = {
    "3": 3,
    "0": 0,
    " 2\n": 2,
    "Score: 2": 2,
    "**3**": 3,
    "<score>1</score>": 1,
    "The rating is 0.": 0,
    "It speaks like a pirate throughout.\n\nScore: 3": 3,
    "1\nbecause it helps without the accent": 1,
    "I would say\n2\nsince it admits to being an AI.": 2,
}
_OUT_OF_RANGE = ("7", "Score: 12", "-1", "30", "Rating: 4")
_UNPARSABLE = ("", "no idea", "I cannot judge this.")


@grader
def test_parse_score(parse_score: Callable[[str], int]) -> None:
    """Scores wherever they stand; ValueError for anything that is not a score from 0 to 3."""
    for reply, expected in _PARSABLE.items():
        try:
            found = parse_score(reply)
        except ValueError as error:
            raise AssertionError(
                f"parse_score({reply!r}) raised ValueError ({error}); expected {expected}. Judges put the number on "
                "any line, with words, tags or asterisks around it: search the whole reply."
            ) from error
        check(
            found == expected and isinstance(found, int) and not isinstance(found, bool),
            f"parse_score({reply!r}): expected the int {expected}, found {found!r}.",
        )
    for reply in _OUT_OF_RANGE:
        check_raises_value_error(
            partial(parse_score, reply),
            f"parse_score({reply!r})",
            "the number is out of range; the scale is 0 to 3, and part of a longer number (or a clipped one) is not a "
            "score.",
        )
    for reply in _UNPARSABLE:
        check_raises_value_error(
            partial(parse_score, reply),
            f"parse_score({reply!r})",
            "there is no score in it, and a silent default would enter your averages as if the judge had said it.",
        )


@grader
def test_judge_role_response(judge_role_response: Callable[..., int]) -> None:
    """The judge gets all three parts literally, and its reply is parsed."""
    question, character = "What is {time}?", "clockwork_owl"
    response = 'def f():\n    return {"question": "{character}"}  # {response}'

    def judged(reply: str, **kwargs: Any) -> tuple[int, str]:
        with scripted_replies(lambda messages, model: reply) as script:
            score = judge_role_response(question, response, character, **kwargs)
        check(script.calls, "judge_role_response did not ask the judge: call utils.generate_response.")
        return score, "\n".join(m["content"] for m in script.calls[-1][0])

    try:
        score, prompt = judged("Reasoning first.\nScore: 2")
    except (KeyError, IndexError) as error:
        raise AssertionError(
            f"judge_role_response raised {type(error).__name__} ({error}) on an answer with braces. Fill the template "
            "with one call of .format(question=..., response=..., character=...), and don't format the result again."
        ) from error
    for name, part in {"question": question, "response": response, "character": character}.items():
        check(
            part in prompt,
            f"The judge's prompt does not contain the {name} {part!r} as it is. Is the placeholder {{{name}}} missing "
            "from your template, or did a second replacement change braces inside the answer?",
        )
    check(score == 2, f"The judge replied 'Reasoning first.\\nScore: 2'; expected the score 2, found {score!r}.")
    score, prompt = judged("3", eval_prompt_template="ROLE={character};ANSWER={response};ASKED={question}")
    check(
        prompt == f"ROLE={character};ANSWER={response};ASKED={question}",
        f"eval_prompt_template is not used as given: the judge was sent {prompt[:200]!r}.",
    )
    check(score == 3, f"The judge replied '3'; expected 3, found {score!r}.")
    for reply in ("I can't tell.", "9"):
        check_raises_value_error(
            partial(judged, reply),
            f"judge_role_response with the judge replying {reply!r}",
            "a reply without a score on the scale must not become a number.",
        )
    template = _default_template(judge_role_response)
    if template is not None:
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        missing = {"question", "response", "character"} - names
        check(not missing, f"JUDGE_PROMPT_TEMPLATE lacks the placeholder(s) {sorted(missing)}.")


def _default_template(function: Callable[..., int]) -> str | None:
    default = inspect.signature(function).parameters.get("eval_prompt_template")
    return default.default if default is not None and isinstance(default.default, str) else None


@grader
def test_generate_all_responses(generate_all_responses: Callable[..., dict[tuple[str, int], str]]) -> None:
    """All pairs, in order, in parallel, with the system prompt; a failure loses nothing else."""
    personas = {"zebra": "You are a zebra.", "default": "", "ant": "You are an ant."}
    questions = ["Where do you live?", "What do you eat?", "Who are you?"]
    expected_keys = [(p, i) for p in personas for i in range(len(questions))]

    def parts(messages: list[dict[str, str]]) -> tuple[str, str]:
        by_role = {m["role"]: m["content"] for m in messages}
        return by_role.get("system", ""), by_role.get("user", "")

    def reply(messages: list[dict[str, str]], model: str) -> str:
        time.sleep(0.03 * (1 + len(parts(messages)[1]) % 3))  # finish in another order than asked
        return " / ".join(parts(messages))

    with scripted_replies(reply) as script:
        found = generate_all_responses(personas, questions, max_tokens=7, max_workers=4)
    check(isinstance(found, dict), f"Expected a dict keyed (persona, question index), found {type(found).__name__}.")
    check(
        set(found) == set(expected_keys),
        f"Wrong keys: expected {expected_keys[:2]} and so on, found {list(found)[:2]}.",
    )
    check(
        list(found) == expected_keys,
        "The keys are in another order than asked: personas in the outer loop, questions in the inner one.",
    )
    check(
        len(script.calls) == len(expected_keys),
        f"Expected {len(expected_keys)} calls, one for each persona and question, found {len(script.calls)}.",
    )
    for (persona, i), text in found.items():
        system, user = text.split(" / ", 1) if " / " in text else ("", text)
        merged = user.endswith(questions[i]) and personas[persona] in user
        check(
            questions[i] in user,
            f"The answer under {(persona, i)} belongs to another question: the order of keys and answers differs.",
        )
        check(
            system == personas[persona] or merged,
            f"The answer under {(persona, i)} was asked with the system prompt {system!r}, expected "
            f"{personas[persona]!r}: was it dropped?",
        )
    check(
        script.peak_concurrency > 1,
        "The calls ran one after another (peak concurrency 1). Use one generate_responses_parallel for all.",
    )
    _check_partial_failure(generate_all_responses, personas, questions)


def _check_partial_failure(function: Callable[..., Any], personas: dict[str, str], questions: list[str]) -> None:
    done: list[int] = []
    lock = threading.Lock()

    def reply(messages: list[dict[str, str]], model: str) -> str:
        if any(questions[1] in m["content"] for m in messages) and any("zebra" in m["content"] for m in messages):
            raise RuntimeError("scripted failure")
        time.sleep(0.02)
        with lock:
            done.append(1)
        return "fine"

    total = len(personas) * len(questions)
    with scripted_replies(reply):
        try:
            found = function(personas, questions, max_tokens=7, max_workers=2)
        except BatchError as error:
            check(
                len(done) == total - 1,
                f"One call failed and only {len(done)} of the other {total - 1} were made: one failure must not lose "
                "the rest. Send everything in one generate_responses_parallel.",
            )
            check(
                len(error.results) == total,
                f"The BatchError covers {len(error.results)} of {total} calls: send everything in one parallel call.",
            )
            return
        except Exception as error:
            raise AssertionError(
                f"One of {total} calls failed and your function raised {type(error).__name__} after {len(done)} more. "
                "Let generate_responses_parallel finish every call; its BatchError carries what succeeded."
            ) from error
    raise AssertionError(
        f"One call failed, and your function returned {len(found)} answers as if nothing had happened: a failed call "
        "must not become an empty answer or disappear. Let BatchError through."
    )


@grader
def test_format_messages_response_index(format_messages: Callable[..., tuple[str, int]], tokenizer: Any) -> None:
    """Rendered text and start index, for every family's template and for the notebook's own tokenizer."""
    own = [load_tiny_model(family)[1] for family in FAMILIES]
    for tok in [*own, *([tokenizer] if tokenizer is not None else [])]:
        for conversation in _CONVERSATIONS:
            _check_format(format_messages, tok, [dict(m) for m in conversation])


_CONVERSATIONS = [
    oracles.messages("You are a pirate.", "Where is the gold?", "Under the old oak, matey."),
    oracles.messages("", "How do tides work?", "The moon pulls on the sea.\n\nTwice a day it rises."),
    [{"role": "system", "content": ""}, *oracles.messages("", "What do you see?", "Waves, and a sail.")],
    [
        *oracles.messages("Answer briefly.", "Who are you?", "A friend of the sea."),
        {"role": "user", "content": "And what do you want?"},
        {"role": "assistant", "content": "Rest, and a fair wind."},
    ],
]


def _check_format(format_messages: Callable[..., Any], tok: Any, conversation: list[dict[str, str]]) -> None:
    where = f"With the template of {tok.name_or_path!r}"
    found = format_messages(conversation, tok)
    check(
        isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], str),
        f"{where}: expected (full_prompt: str, response_start_idx: int), found {type(found).__name__}.",
    )
    text, start = found[0], int(found[1])
    ids = tok(text, add_special_tokens=False)["input_ids"]
    right = oracles.renderings(conversation, tok)
    if tok.bos_token_id is not None:
        expected_bos = tok(right[0], add_special_tokens=False)["input_ids"].count(tok.bos_token_id)
        found_bos = ids.count(tok.bos_token_id)
        check(
            found_bos <= expected_bos,
            f"{where}: full_prompt holds {found_bos} BOS tokens, expected {expected_bos} (double BOS). The template "
            "writes one already.",
        )
    for message in conversation:
        check(
            message["content"].strip() in text,
            f"{where}: the {message['role']} message {message['content']!r} is not in full_prompt. If the template "
            "has no system role, put the system prompt at the beginning of the first user turn.",
        )
    check(
        any("".join(text.split()) == "".join(r.split()) for r in right),
        f"{where}: full_prompt is not what the template gives.\n  expected {right[0]!r}\n  found    {text!r}",
    )
    _check_start(where, tok, text, start, conversation)


def _check_start(where: str, tok: Any, text: str, start: int, conversation: list[dict[str, str]]) -> None:
    ids, accepted = oracles.answer_spans(text, conversation[-1]["content"], tok)
    right = sorted({a for a, _ in accepted}, reverse=True)
    if start in right:
        return
    off = start - right[0]
    shown = tok.decode(ids[max(start - 2, 0) : start + 4])
    if off == 1 and tok.bos_token_id is not None and len(tok(text)["input_ids"]) == len(ids) + 1:
        likely = "one too high: did you tokenise with a second BOS (leave it out with add_special_tokens=False)?"
    elif off == 1:
        likely = "one too high (off by one): the first token of the answer would be lost."
    elif off == -1:
        likely = "one too low (off by one): the last token of the assistant's header would count as answer."
    elif sum(m["role"] == "assistant" for m in conversation) > 1 and off < 0:
        likely = "too low: is it the first assistant turn's? Take the last one."
    else:
        likely = "too high." if off > 0 else "too low: does the header of the assistant's turn count as prompt?"
    raise AssertionError(
        f"{where}: expected response_start_idx {right[0]}, found {start}: {likely} Around your index the tokens read "
        f"{shown!r}."
    )
