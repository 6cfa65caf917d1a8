"""Whether a model got the prompt it should have."""

from typing import Any

from jinja2.exceptions import TemplateError

Messages = list[dict[str, str]]


def prompts(conversation: Messages, tok: Any, generation: bool = True, empty: bool = True) -> list[list[int]]:
    """Token ids of every right rendering of a conversation that the model is to continue.

    Args:
        empty: where there is no system prompt, an empty system message will do.
    """
    none = empty and all(m["role"] != "system" for m in conversation)
    texts = []
    for conv in [conversation, *([[{"role": "system", "content": ""}, *conversation]] if none else [])]:
        for thinking in ({"enable_thinking": False}, {}):
            try:
                texts.append(
                    tok.apply_chat_template(conv, tokenize=False, add_generation_prompt=generation, **thinking)
                )
            except TemplateError:
                continue
    return [tok(t, add_special_tokens=False)["input_ids"] for t in dict.fromkeys(texts)]


def check_prompt(
    found: list[int], right: Messages, tok: Any, what: str, wrong: dict[str, Messages], empty: bool = True
) -> None:
    """The model read the conversation in its chat template, ready to answer; else say what is missing.

    Args:
        empty: as in `prompts`.
    """
    accepted = prompts(right, tok, empty=empty)
    if found in accepted:
        return
    guess = "Use apply_chat_template(..., add_generation_prompt=True), and tokenise with add_special_tokens=False."
    if tok.bos_token_id is not None and found[1:] in accepted:
        guess = "The BOS token is there twice: the template writes one, so tokenise with add_special_tokens=False."
    elif found in prompts(right, tok, generation=False):
        guess = "The header of the assistant's turn is missing: use add_generation_prompt=True."
    for explanation, conversation in wrong.items():
        if found in prompts(conversation, tok):
            guess = f"It looks as if {explanation}."
    raise AssertionError(
        f"{what}: the model got the wrong prompt.\n  expected: {tok.decode(accepted[0])!r}\n"
        f"  found:    {tok.decode(found)!r}\n  {guess}"
    )


def check_question(found: list[int], question: str, tok: Any, what: str, doubled: bool = False) -> None:
    """The model read the question in its chat template, without a system prompt.

    A doubled BOS passes with a note where `doubled`: code written for Qwen, whose tokenizer adds none, is right there.
    """
    right: Messages = [{"role": "user", "content": question}]
    if doubled and tok.bos_token_id is not None and found[:2] == [tok.bos_token_id] * 2:
        print(f"{what}: note that BOS is there twice. Tokenise with add_special_tokens=False: the template writes one.")
        found = found[1:]
    system = {"role": "system", "content": "You are a helpful assistant."}
    wrong = {
        "you add a system prompt: ask without": [system, *right],
        "you add an empty system message: leave it out": [system | {"content": ""}, *right],
    }
    check_prompt(found, right, tok, what, wrong, empty=False)
