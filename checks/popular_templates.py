"""Chat templates of popular models, by what they write around each turn; in the form that `odd_templates` has."""

from __future__ import annotations

from odd_templates import Odd

Around = tuple[str, str]  # what stands before a content and behind it


def _turns(system: Around | None, user: Around, answer: Around, end: str, begin: str = "") -> Odd:
    """A template of three roles, or of two, whose first question then carries the system text.

    Args:
        end: what an answer learns behind its text.
        begin: in front of everything.
    """
    kinds = {"system": system, "user": user, "assistant": answer}
    branches = "".join(
        f"{{% if m['role'] == {role!r} %}}{{{{ {around[0]!r} + m['content'] + {around[1]!r} }}}}{{% endif %}}"
        for role, around in kinds.items()
        if around
    )
    template = (
        f"{{{{ {begin!r} }}}}{{% for m in messages %}}{branches}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {answer[0].rstrip(' ')!r} }}}}{{% endif %}}"
    )
    asked = [f"{user[0]}{text}{user[1]}" for text in ("One?" if system else "Be brief.\n\nOne?", "Two?")]
    said = [f"{answer[0]}«{text}»{answer[1]}" for text in ("First answer.", "Yes")]
    first = begin + (f"{system[0]}Be brief.{system[1]}" if system else "")
    return Odd(template, first + asked[0] + said[0] + asked[1] + said[1], end)


POPULAR = {
    "Phi-4": _turns(
        ("<|im_start|>system<|im_sep|>", "<|im_end|>"),
        ("<|im_start|>user<|im_sep|>", "<|im_end|>"),
        ("<|im_start|>assistant<|im_sep|>", "<|im_end|>"),
        "<|im_end|>",
    ),
    "Mistral Small 3": _turns(
        ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), ("[INST]", "[/INST]"), ("", "</s>"), "</s>", "<s>"
    ),
    "EXAONE 3": _turns(
        ("[|system|]", "[|endofturn|]\n"), ("[|user|]", "\n"), ("[|assistant|]", "[|endofturn|]\n"), "[|endofturn|]"
    ),
    "Reka Flash": _turns(None, ("human: ", " <sep> "), ("assistant: ", " <sep> "), "<sep>"),
    "MiniCPM": _turns(None, ("<用户>", ""), ("<AI>", "</s>"), "</s>", "<s>"),
    "Baichuan 2": _turns(None, ("<reserved_106>", ""), ("<reserved_107>", ""), "<reserved_106>"),
    "Jamba": _turns(
        ("<|bom|><|system|> ", "<|eom|>"),
        ("<|bom|><|user|> ", "<|eom|>"),
        ("<|bom|><|assistant|> ", "<|eom|>"),
        "<|eom|>",
        "<|startoftext|>",
    ),
    "Kimi K2": _turns(
        ("<|im_system|>system<|im_middle|>", "<|im_end|>"),
        ("<|im_user|>user<|im_middle|>", "<|im_end|>"),
        ("<|im_assistant|>assistant<|im_middle|>", "<|im_end|>"),
        "<|im_end|>",
    ),
    "Seed-OSS": _turns(
        ("<seed:bos>system\n", "<seed:eos>"),
        ("<seed:bos>user\n", "<seed:eos>"),
        ("<seed:bos>assistant\n", "<seed:eos>"),
        "<seed:eos>",
    ),
    "Apertus": _turns(
        ("<|system_start|>", "<|system_end|>"),
        ("<|user_start|>", "<|user_end|>"),
        ("<|assistant_start|>", "<|assistant_end|>"),
        "<|assistant_end|>",
        "<s>",
    ),
    "Hunyuan": _turns(
        ("<｜hy_begin｜>", "<｜hy_no_3｜>"),
        ("<｜hy_User｜>", ""),
        ("<｜hy_Assistant｜>", "<｜hy_no_2｜>"),
        "<｜hy_no_2｜>",
    ),
    "Tulu and OLMo": _turns(
        ("<|system|>\n", "\n"), ("<|user|>\n", "\n"), ("<|assistant|>\n", "<|endoftext|>\n"), "<|endoftext|>"
    ),
    "WizardLM, in plain words": _turns(("", " "), ("USER: ", " "), ("ASSISTANT: ", "</s>"), "</s>"),
    "Nemotron 4": _turns(
        ("<extra_id_0>System\n", "\n\n"),
        ("<extra_id_1>User\n", "\n"),
        ("<extra_id_1>Assistant\n", "\n"),
        "\n<extra_id_1>",
    ),
}
