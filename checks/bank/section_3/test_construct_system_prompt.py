import string
from functools import cache

from checks.bank import right, wrong


@right
def literal(assistant_name: str, instruction: str) -> str:
    return f"You are a {assistant_name} assistant. {instruction}"


@wrong("write 'a' whatever the name")
def grammatical(assistant_name, instruction):
    """An "an" before a vowel."""
    article = "an" if assistant_name[0] in "aeiou" else "a"
    return " ".join(["You are", article, assistant_name, "assistant.", instruction])


@right
def concatenated(assistant_name, instruction):
    return "You are a " + assistant_name + " assistant. " + instruction


@wrong("prefix is missing")
def instruction_alone(assistant_name, instruction):
    return instruction


@wrong("instruction is missing")
def prefix_alone(assistant_name, instruction):
    return f"You are a {assistant_name} assistant."


@wrong("more in it than the two parts")
def more_than_that(assistant_name, instruction):
    return f"You are a {assistant_name} assistant. {instruction} Answer now."


@wrong("instruction is missing, or you changed it")
def one_line(assistant_name, instruction):
    return f"You are a {assistant_name} assistant. {instruction.splitlines()[0]}"


@wrong("spacing is wrong")
def no_space(assistant_name, instruction):
    return f"You are a {assistant_name} assistant.{instruction}"


@wrong("spacing is wrong")
def line_break(assistant_name, instruction):
    return f"You are a {assistant_name} assistant.\n{instruction}"


@right
def stripped(assistant_name, instruction):
    return f"You are a {assistant_name} assistant. {instruction}".strip()


@wrong("spacing is wrong")
def indented(assistant_name, instruction):
    return f"""
    You are a {assistant_name} assistant. {instruction}"""


@wrong("`f` before the string")
def no_f(assistant_name, instruction):
    return "You are a {assistant_name} assistant. {instruction}"


@wrong("name before 'assistant' is another one")
def always_helpful(assistant_name, instruction):
    return f"You are a helpful assistant. {instruction}"


@wrong("Capitals differ")
def capitalised(assistant_name, instruction):
    return f"You are a {assistant_name} Assistant. {instruction}"


@wrong("write 'a' whatever the name")
def always_an(assistant_name, instruction):
    return f"You are an {assistant_name} assistant. {instruction}"


@wrong("fill in both")
def without_the_noun(assistant_name, instruction):
    return f"You are {assistant_name}. {instruction}"


@wrong("expected a str, found NoneType")
def prints(assistant_name, instruction):
    print(literal(assistant_name, instruction))


@wrong("expected a str, found dict")
def a_message(assistant_name, instruction):
    return {"role": "system", "content": literal(assistant_name, instruction)}


@wrong("expected a str, found tuple")
def a_tuple(assistant_name, instruction):
    return f"You are a {assistant_name} assistant.", instruction


@right
def arena_style(assistant_name: str, instruction: str) -> str:
    """Construct the full system prompt."""
    return f"You are a {assistant_name} assistant. {instruction}"


@right
def from_a_template(assistant_name, instruction):
    return string.Template("You are a $name assistant. $rest").substitute(name=assistant_name, rest=instruction)


@right
def joined_words(assistant_name, instruction):
    return " ".join(["You are a", assistant_name, "assistant.", instruction])


@wrong("expected a result, found KeyError")
def formatted_twice(assistant_name, instruction):
    return f"You are a {assistant_name} assistant. {instruction}".format()


@wrong("expected a result, found")
def percent_after_the_instruction(assistant_name, instruction):
    return ("You are a %s assistant. " + instruction) % assistant_name


def but(words, name=str, rest=str):
    """A wrong solution: name or instruction changed."""

    def solution(assistant_name, instruction):
        return f"You are a {name(assistant_name)} assistant. {rest(instruction)}"

    solution.__module__ = __name__
    return wrong(words)(solution)


spaces_squeezed = but("spacing is wrong", rest=lambda text: " ".join(text.split()))
full_stop_dropped = but("instruction is missing, or you changed it", rest=lambda text: text.rstrip("."))
lower_case = but("instruction is missing, or you changed it", rest=str.lower)
hyphens_dropped = but("name before 'assistant' is another one", name=lambda name: name.replace("-", " "))
name_in_quotes = but("fill in both|name before", name=repr)
two_spaces = but("spacing is wrong", rest=lambda text: " " + text)


@cache
def prefix_for(assistant_name):
    return {}


@wrong("instruction is missing, or you changed it")
def remembers_the_name_alone(assistant_name, instruction):
    seen = prefix_for(assistant_name)
    return seen.setdefault("prompt", f"You are a {assistant_name} assistant. {instruction}")
