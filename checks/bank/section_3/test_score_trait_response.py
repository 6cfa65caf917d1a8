import re

import openai

import utils
from checks.bank import right, wrong


def ask(prompt, model=None, **options):
    return utils.generate_response([{"role": "user", "content": prompt}], model=model or utils.judge_model(), **options)


def filled(template, question, answer):
    return template.format(question=question, answer=answer)


def number(reply):
    found = re.search(r"-?\d+", reply)
    return int(found[0]) if found else None


def parse(reply):
    score = None if "REFUSAL" in reply else number(reply)
    return score if score is not None and 0 <= score <= 100 else None


@right
def in_arena_style(question: str, answer: str, eval_prompt_template: str, model: str = "judge") -> int | None:
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
        [[{"role": "user", "content": prompt}]], model=model or utils.judge_model(), progress=False
    )
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
    reply = utils.make_client().chat.completions.create(model=model or utils.judge_model(), messages=messages)
    return parse(reply.choices[0].message.content)


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


@wrong("not the end of the scale")
def last_number(question, answer, eval_prompt_template, model=None):
    return parse((re.findall(r"-?\d+", ask(filled(eval_prompt_template, question, answer), model)) or [""])[-1])


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


@wrong("called without a model.*response model.*model=model or utils.judge_model")
def response_model_by_default(question, answer, eval_prompt_template, model=None):
    messages = [{"role": "user", "content": filled(eval_prompt_template, question, answer)}]
    return parse(utils.generate_response(messages, model=model, temperature=0.0))


@wrong("did not ask the judge")
def never_asks(question, answer, eval_prompt_template, model=None):
    return 50


@wrong("call of the judge failed.*Let the error through")
def swallows_errors(question, answer, eval_prompt_template, model=None):
    try:
        return parse(ask(filled(eval_prompt_template, question, answer), model))
    except openai.OpenAIError:
        return None
