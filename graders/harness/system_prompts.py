"""The system prompts that elicit a trait, and what may be wrong with one."""

from graders.harness.cases import kind_of
from graders.harness.differences import difference
from graders.harness.expect import check


def right_prompts(assistant_name: str, instruction: str) -> list[str]:
    """Right system prompts: the paper's, with "a" before any name, and the grammatical one."""
    articles = ["a", "an"] if assistant_name[0].lower() in "aeiou" else ["a"]
    return [f"You are {article} {assistant_name} assistant. {instruction}" for article in articles]


def check_system_prompt(found: object, assistant_name: str, instruction: str, what: str) -> None:
    """The string is a right system prompt; else say what is wrong with it."""
    right = right_prompts(assistant_name, instruction)
    if isinstance(found, str) and found in right:
        return
    check(isinstance(found, str), f"{what}: expected a str, found {kind_of(found)}. Return the text itself.")
    text = str(found)
    prefix, squeezed = right[0][: -len(instruction)].strip(), "".join(text.split())
    guess = "Write 'You are a {assistant_name} assistant. {instruction}' and fill in both."
    if any(squeezed == "".join(r.split()) for r in right):
        guess = "Only the spacing is wrong: one space after the full stop, and nothing before or after the two parts."
    elif "{assistant_name}" in text or "{instruction}" in text:
        guess = "The placeholders are still there: is the `f` before the string missing?"
    elif instruction not in text:
        guess = "The instruction is missing, or you changed it: append it as it is."
    elif any(r in text for r in right):
        guess = "There is more in it than the two parts."
    elif text.strip() == instruction.strip():
        guess = f"The prefix is missing: the prompt begins with {prefix!r}."
    elif assistant_name not in text.replace(instruction, ""):
        guess = "The name before 'assistant' is another one: use assistant_name."
    elif squeezed.lower() == "".join(right[0].split()).lower():
        guess = "Capitals differ: leave the name and the instruction as they are."
    elif text.startswith(f"You are an {assistant_name} assistant."):
        guess = "'an' goes before a vowel only; the paper's prompts have 'a' before every name."
    raise AssertionError(f"{what}: wrong system prompt: {difference(right[0], text)}.\n  {guess}")
