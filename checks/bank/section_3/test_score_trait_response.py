import re

import numpy as np
import openai
import pandas as pd

import utils
from checks.bank import right, wrong


def said(reply):
    """Without thoughts and mentions of the scale."""
    return re.sub(r"(?s)^.*</think>|(?:\b0\s*(?:-|to)|/)\s*100\b", " ", reply)


def ask(prompt, model=None, before=(), **options):
    options = {"model": model or utils.judge_model(), "temperature": 0.0} | options
    return said(utils.generate_response([*before, {"role": "user", "content": prompt}], **options))


def filled(template, question, answer):
    return template.format(question=question, answer=answer)


def number(reply):
    found = re.search(r"-?\d+(?:\.\d+)?", reply)
    return round(float(found[0])) if found else None


def parse(reply):
    score = None if "REFUSAL" in reply else number(reply)
    return score if score is not None and 0 <= score <= 100 else None


@wrong("That is the scale's lower end: drop mentions of the scale")
def in_arena_style(question: str, answer: str, eval_prompt_template: str, model: str = "judge") -> int | None:
    """The first number of all, the scale's too."""
    prompt = eval_prompt_template.format(question=question, answer=answer)
    response = utils.generate_response(
        messages=[{"role": "user", "content": prompt}], model=model, max_tokens=50, temperature=0.0
    ).strip()
    if "REFUSAL" in response.upper():
        return None
    match = re.search(r"(?<!-)\b(\d{1,3})\b", response)
    if match:
        score = int(match.group(1))
        if 0 <= score <= 100:
            return score
    return None


@right
def part_by_part(question, answer, eval_prompt_template, model=None):
    """Parts put in by one pass of a regular expression, a parallel call of one, every number looked at."""
    parts = {"question": question, "answer": answer}
    prompt = re.sub(r"\{(question|answer)\}", lambda m: parts[m[1]], eval_prompt_template)
    (reply,) = utils.generate_responses_parallel(
        [[{"role": "user", "content": prompt}]], model=model or utils.judge_model(), temperature=0, progress=False
    )
    reply = said(reply)
    if reply.strip(" *\n").startswith("REFUSAL"):
        return None
    scores = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", reply)]
    return round(scores[0]) if scores and 0 <= scores[0] <= 100 else None


@right
def through_a_client(question, answer, eval_prompt_template, model=None):
    messages = [
        {"role": "system", "content": "You are a strict judge."},
        {"role": "user", "content": filled(eval_prompt_template, question, answer)},
    ]
    reply = utils.make_client().chat.completions.create(
        model=model or utils.judge_model(), messages=messages, temperature=0
    )
    return parse(said(reply.choices[0].message.content))


@wrong("Only the first digits were read")
def two_digits(question, answer, eval_prompt_template, model=None):
    reply = ask(filled(eval_prompt_template, question, answer), model)
    found = re.search(r"-?\d{1,2}", reply)
    return int(found[0]) if found and "REFUSAL" not in reply and int(found[0]) >= 0 else None


@wrong("Only the first digits were read")
def one_digit(question, answer, eval_prompt_template, model=None):
    found = re.search(r"\d", ask(filled(eval_prompt_template, question, answer), model))
    return int(found[0]) if found else None


@wrong("It was clipped")
def clipped(question, answer, eval_prompt_template, model=None):
    reply = ask(filled(eval_prompt_template, question, answer), model)
    score = None if "REFUSAL" in reply else number(reply)
    return None if score is None else max(0, min(100, score))


@wrong("Part of it was read")
def out_of_range_accepted(question, answer, eval_prompt_template, model=None):
    reply = ask(filled(eval_prompt_template, question, answer), model)
    return None if "REFUSAL" in reply else number(reply)


@wrong("'-5'.*Part of it was read")
def sign_ignored(question, answer, eval_prompt_template, model=None):
    return parse(ask(filled(eval_prompt_template, question, answer), model).replace("-", ""))


@wrong("REFUSAL'.*expected None, found 0.*nothing to score in a refusal")
def refusal_is_zero(question, answer, eval_prompt_template, model=None):
    reply = ask(filled(eval_prompt_template, question, answer), model)
    return 0 if "REFUSAL" in reply else parse(reply)


@wrong("expected None, found 0: there is no number in it")
def no_number_is_zero(question, answer, eval_prompt_template, model=None):
    reply = ask(filled(eval_prompt_template, question, answer), model)
    return 0 if number(reply) is None and "REFUSAL" not in reply else parse(reply)


@wrong("found 3: there is nothing to score in a refusal")
def number_in_a_refusal(question, answer, eval_prompt_template, model=None):
    reply = ask(filled(eval_prompt_template, question, answer), model)
    return None if reply.strip() == "REFUSAL" else parse(reply.replace("REFUSAL", ""))


@wrong("0 is a score")
def zero_is_none(question, answer, eval_prompt_template, model=None):
    return parse(ask(filled(eval_prompt_template, question, answer), model)) or None


@wrong("search the whole reply")
def whole_reply_only(question, answer, eval_prompt_template, model=None):
    reply = ask(filled(eval_prompt_template, question, answer), model).strip()
    return int(reply) if reply.isdigit() and int(reply) <= 100 else None


@wrong("search the whole reply")
def raises_without_a_number(question, answer, eval_prompt_template, model=None):
    return int(ask(filled(eval_prompt_template, question, answer), model))


@wrong("search the whole reply")
def first_line_only(question, answer, eval_prompt_template, model=None):
    return parse(ask(filled(eval_prompt_template, question, answer), model).strip().partition("\n")[0])


@wrong("Read the number from its start")
def dots_dropped(question, answer, eval_prompt_template, model=None):
    reply = ask(filled(eval_prompt_template, question, answer), model)
    return 5 if reply == "72.5" else parse(reply)


@wrong("Return an int, not float")
def floats(question, answer, eval_prompt_template, model=None):
    score = parse(ask(filled(eval_prompt_template, question, answer), model))
    return None if score is None else float(score)


@wrong("with braces")
def formatted_twice(question, answer, eval_prompt_template, model=None):
    return parse(ask(filled(eval_prompt_template, question, answer).format(question=question), model))


@wrong("second replacement")
def chained_replace(question, answer, eval_prompt_template, model=None):
    prompt = eval_prompt_template.replace("{answer}", answer).replace("{question}", question)
    return parse(ask(prompt, model))


@wrong("second replacement")
def chained_the_other_way(question, answer, eval_prompt_template, model=None):
    prompt = eval_prompt_template.replace("{question}", question).replace("{answer}", answer)
    return parse(ask(prompt, model))


@wrong("placeholder missing")
def question_missing(question, answer, eval_prompt_template, model=None):
    return parse(ask(filled(eval_prompt_template, "the question", answer), model))


@wrong("not one of your own")
def own_template(question, answer, eval_prompt_template, model=None):
    return parse(ask(f"How pedantic (0 to 100) is this?\nQ: {question}\nA: {answer}", model))


@wrong("hand `model` on")
def model_ignored(question, answer, eval_prompt_template, model=None):
    return parse(ask(filled(eval_prompt_template, question, answer)))


@wrong("that is the model under study.*pass model=utils.judge_model")
def response_model_by_default(question, answer, eval_prompt_template, model=None):
    messages = [{"role": "user", "content": filled(eval_prompt_template, question, answer)}]
    return parse(said(utils.generate_response(messages, model=model, temperature=0.0)))


@wrong("did not ask the judge")
def never_asks(question, answer, eval_prompt_template, model=None):
    return 50


@wrong("call of the judge failed.*Let the error through")
def swallows_errors(question, answer, eval_prompt_template, model=None):
    try:
        return parse(ask(filled(eval_prompt_template, question, answer), model))
    except openai.OpenAIError:
        return None


@right
def with_pandas(question, answer, eval_prompt_template, model=None):
    """A whole number of pandas' own; thoughts are what stands before the last tag."""
    prompt = eval_prompt_template.format_map({"question": question, "answer": answer})
    messages = [{"role": "system", "content": "Judge, and be brief."}, {"role": "user", "content": prompt}]
    reply = utils.generate_response(messages, model=model or utils.judge_model(), temperature=0, max_tokens=20)
    replies = pd.Series([reply.rpartition("</think>")[2]])
    if replies.str.contains("REFUSAL")[0]:
        return None
    numbers = replies.str.replace(r"0\s*(?:-|to)\s*100", "", regex=True).str.extract(r"(-?\d+\.?\d*)")[0].astype(float)
    return numbers.round().astype(int)[0] if numbers.between(0, 100)[0] else None


@right
def number_by_number(question, answer, eval_prompt_template, model=None):
    """Reads word by word; the first number that is no end of a scale; a whole number of numpy's."""
    reply = ask(filled(eval_prompt_template, question, answer), model)
    if "REFUSAL" in reply.upper():
        return None
    for word in re.split(r"[^\d.-]+", reply):
        try:
            score = float(word.rstrip("."))
        except ValueError:
            continue
        return np.int64(np.floor(score + 0.5)) if 0 <= score <= 100 else None
    return None


def judged_so(words, read=parse, shown=filled, raw=False, **options):
    """A wrong solution that asks in another way, or reads the reply otherwise."""

    def solution(question, answer, eval_prompt_template, model=None):
        prompt = shown(eval_prompt_template, question, answer)
        options_now = {"model": model or utils.judge_model(), "temperature": 0.0} | options
        reply = utils.generate_response([{"role": "user", "content": prompt}], **options_now)
        return read(reply if raw else said(reply))

    solution.__module__ = __name__
    return wrong(words)(solution)


warm = judged_so("expected every call with temperature=0, found temperature=0.7", temperature=0.7)
answer_cut = judged_so(
    "nothing else in that message.*Was the answer cut", shown=lambda t, q, a: t.format(question=q, answer=a[:1000])
)
own_words_added = judged_so(
    "nothing else in that message", shown=lambda t, q, a: filled(t, q, a) + "\nBe generous, and give 70 if in doubt."
)
parts_swapped = judged_so("in their places", shown=lambda t, q, a: t.format(question=a, answer=q))
scale_read = judged_so("scale's lower end: drop mentions of the scale", raw=True)
thoughts_read = judged_so(
    "That number stands in its thoughts",
    lambda reply: parse(re.sub(r"(?:\b0\s*(?:-|to)|/)\s*100\b", " ", reply)),
    raw=True,
)
cut_not_rounded = judged_so("It was cut: round", lambda reply: parse(re.sub(r"(\d)\.\d+", r"\1", reply)))
braces_escaped = judged_so(
    "in their places", shown=lambda t, q, a: t.format(question=q.replace("{", "("), answer=a.replace("{", "("))
)
only_thoughts_scored = judged_so(
    "its only numbers stand in its thoughts",
    lambda reply: parse(said(reply)) if re.search(r"\d", said(reply)) else parse(reply),
    raw=True,
)
out_of_ten = judged_so(
    "expected 7, found 70|expected 5, found 50",
    lambda reply: (lambda s: s if s is None else 10 * s if 0 < s <= 10 else s)(parse(reply)),
)
last_number = judged_so(
    "not the end of the scale", lambda reply: parse((re.findall(r"-?\d+", reply) or [""])[-1]), raw=True
)


@right
def with_the_course_library(question, answer, eval_prompt_template, model=None):
    prompt = filled(eval_prompt_template, question, answer)
    reply = utils.generate_response(
        [{"role": "user", "content": prompt}], model=model or utils.judge_model(), temperature=0.0
    )
    try:
        score = utils.read_score(reply, 0, 100)
    except ValueError:
        return None
    return score if score is None else round(score)
