from checks.bank import right, wrong


@right
def literal(assistant_name: str, instruction: str) -> str:
    return f"You are a {assistant_name} assistant. {instruction}"


@right
def grammatical(assistant_name, instruction):
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


@wrong("before a vowel only")
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
