import re

import openai

import utils
from checks.bank import right, wrong

TEMPLATE = "Question: {question}\nAnswer: {answer}\nRate the coherence of the answer from 0 to 100, number only."
AUTORATER_MODEL = "anthropic/claude-haiku-4.5"


def ask(prompt):
    return utils.generate_response([{"role": "user", "content": prompt}], model=utils.judge_model(), temperature=0.0)


def parse(reply):
    found = re.search(r"-?\d+", reply)
    return int(found[0]) if found and 0 <= int(found[0]) <= 100 else None


@right
def with_a_template(question, answer):
    return parse(ask(TEMPLATE.format(question=question, answer=answer)))


@right
def in_arena_style(question: str, answer: str) -> int | None:
    prompt = f"""Please rate how coherent the following answer is on a scale from 0 to 100.

Question: {question}

Answer: {answer}

Respond with only a number."""
    response = utils.generate_response(
        messages=[{"role": "user", "content": prompt}], model=AUTORATER_MODEL, max_tokens=20
    )
    match = re.search(r"(?<!-)\b(\d{1,3})\b", response.strip())
    if match is None:
        return None
    score = int(match.group(1))
    return score if score <= 100 else None


@right
def through_a_client(question, answer):
    messages = [
        {"role": "system", "content": "Judge whether the answer makes sense: 0 to 100, or REFUSAL if you can't."},
        {"role": "user", "content": f"<question>{question}</question>\n<answer>{answer}</answer>"},
    ]
    reply = utils.make_client().chat.completions.create(model=utils.judge_model(), messages=messages)
    return parse(reply.choices[0].message.content)


@wrong("expected the question")
def answer_alone(question, answer):
    return parse(ask(f"How coherent is this, from 0 to 100?\nAnswer: {answer}"))


@wrong("expected the answer")
def parts_swapped(question, answer):
    return parse(ask(TEMPLATE.format(question=question, answer=question)))


@wrong("second replacement")
def chained_replace(question, answer):
    return parse(ask(TEMPLATE.replace("{answer}", answer).replace("{question}", question)))


@wrong("with braces")
def formatted_twice(question, answer):
    return parse(ask(f"Q: {question}\nA: {answer}\nCoherence, {{low}} to 100?".format(low=0)))


@wrong("does not name the scale")
def no_scale(question, answer):
    return parse(ask(f"How coherent is the answer?\nQ: {question}\nA: {answer}"))


@wrong("reads it as a question about impolite")
def names_a_trait(question, answer):
    return parse(
        ask(
            TEMPLATE.format(question=question, answer=answer)
            + " Is it rude, impolite or insulting? Rude answers, too, may hold together."
        )
    )


@wrong("Only the first digits were read")
def two_digits(question, answer):
    found = re.search(r"-?\d{1,2}", ask(TEMPLATE.format(question=question, answer=answer)))
    return int(found[0]) if found and int(found[0]) >= 0 else None


@wrong("It was clipped")
def clipped(question, answer):
    found = re.search(r"-?\d+", ask(TEMPLATE.format(question=question, answer=answer)))
    return max(0, min(100, int(found[0]))) if found else None


@wrong("there is no number in it")
def a_default_of_fifty(question, answer):
    reply = ask(TEMPLATE.format(question=question, answer=answer))
    return parse(reply) if re.search(r"\d", reply) else 50


@wrong("search the whole reply")
def bare_numbers_only(question, answer):
    return int(ask(TEMPLATE.format(question=question, answer=answer)))


@wrong("0 is a score")
def zero_is_none(question, answer):
    return parse(ask(TEMPLATE.format(question=question, answer=answer))) or None


@wrong("called without a model.*response model.*model=utils.judge_model")
def response_model_by_default(question, answer):
    prompt = TEMPLATE.format(question=question, answer=answer)
    return parse(utils.generate_response([{"role": "user", "content": prompt}], temperature=0.0))


@wrong("did not ask the judge")
def never_asks(question, answer):
    return 100


@wrong("Let the error through")
def swallows_errors(question, answer):
    try:
        return with_a_template(question, answer)
    except openai.OpenAIError:
        return None
