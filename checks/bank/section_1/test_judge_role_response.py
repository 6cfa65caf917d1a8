import re

import utils
from checks.bank import right, wrong

TEMPLATE = "Character: {character}\nQ: {question}\nA: {response}\nScore 0-3?"


def parse(reply):
    match = re.search(r"(?<![\d-])[0-3](?!\d)", reply)
    if match is None:
        raise ValueError(reply)
    return int(match.group())


def ask(prompt):
    return utils.generate_response([{"role": "user", "content": prompt}], model=utils.judge_model())


@right
def with_format_map(question, response, character, eval_prompt_template=TEMPLATE):
    parts = {"question": question, "response": response, "character": character}
    return parse(ask(eval_prompt_template.format_map(parts)))


@right
def parallel_of_one(question, response, character, eval_prompt_template=TEMPLATE):
    prompt = re.sub(
        r"\{(question|response|character)\}",
        lambda m: {"question": question, "response": response, "character": character}[m[1]],
        eval_prompt_template,
    )
    return parse(utils.generate_responses_parallel([[{"role": "user", "content": prompt}]], temperature=0.0)[0])


@right
def through_a_client(question, response, character, eval_prompt_template=TEMPLATE):
    prompt = eval_prompt_template.format(question=question, response=response, character=character)
    reply = utils.make_client().chat.completions.create(
        model=utils.judge_model(), messages=[{"role": "user", "content": prompt}]
    )
    return parse(reply.choices[0].message.content)


@wrong("does not contain the character")
def placeholder_missing(question, response, character, eval_prompt_template="Q: {question} A: {response}"):
    return with_format_map(question, response, character, eval_prompt_template)


@wrong("does not contain the response")
def chained_replace(question, response, character, eval_prompt_template=TEMPLATE):
    prompt = eval_prompt_template.replace("{response}", response)
    return parse(ask(prompt.replace("{character}", character).replace("{question}", question)))


@wrong("with braces")
def formatted_twice(question, response, character, eval_prompt_template=TEMPLATE):
    prompt = eval_prompt_template.format(question=question, response=response, character=character)
    return parse(ask(prompt.format()))


@wrong("not used as given")
def own_template_always(question, response, character, eval_prompt_template=TEMPLATE):
    return with_format_map(question, response, character)


@wrong("must not become a number")
def silent_zero(question, response, character, eval_prompt_template=TEMPLATE):
    try:
        return with_format_map(question, response, character, eval_prompt_template)
    except ValueError:
        return 0


@wrong("did not ask the judge")
def never_asks(question, response, character, eval_prompt_template=TEMPLATE):
    return 2
