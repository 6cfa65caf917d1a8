"""Chat templates with a will of their own, in the layouts of published ones, and what each writes, put down by hand.

Every case writes one conversation: a system message "Be brief.", "One?", "First answer.", "Two?", "Yes". `written`
is the whole of it with the answers in guillemets; a prompt is what stands before the last of them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MOMENT = "2024-07-26"  # what PERSONALAB_DATE says while these are read
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "First answer."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "Yes"},
]


_TOKEN = re.compile(
    r"<[|｜][^<>' ]*[|｜]>|</?s>|</?think>|\[gMASK\]|<sop>|\[\|\w+\|\]"
    r"|<(?:sep|reserved_\d+|AI|用户|seed:\w+|extra_id_\d)>"
)


class Odd(NamedTuple):
    """A template, what it writes, what an answer learns behind its text, and what a prompt adds to the conversation."""

    template: str
    written: str
    end: str
    thinks: str = ""  # behind the prompt's header; conversations do not hold it

    @property
    def text(self) -> str:
        """What the model reads."""
        return re.sub("[«»]", "", self.written)

    @property
    def prompt(self) -> str:
        """What the last answer follows on."""
        return re.sub("[«»]", "", self.written[: self.written.rindex("«")]).rstrip(" ") + self.thinks

    @property
    def markers(self) -> list[str]:
        """What its tokenizer knows as tokens."""
        return sorted(set(_TOKEN.findall(self.template)))


_PROMPT = "{% if add_generation_prompt %}"
_ASKED = _PROMPT + "{{ '<|im_start|>assistant\n' }}{% endif %}"
_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
)
_CHATML_WRITTEN = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n«First answer.»"
    "<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n«Yes»<|im_end|>\n"
)

ODD = {
    "roles in capitals (StableBeluga, Orca)": Odd(
        "{% for m in messages %}{{ '### ' + m['role'] | upper + ':\n' + m['content'] | trim + '\n\n' }}{% endfor %}"
        + _PROMPT
        + "{{ '### ASSISTANT:\n' }}{% endif %}",
        "### SYSTEM:\nBe brief.\n\n### USER:\nOne?\n\n### ASSISTANT:\n«First answer.»\n\n### USER:\nTwo?\n\n"
        "### ASSISTANT:\n«Yes»\n\n",
        "\n\n### USER:",
    ),
    "numbered rounds, no system role (ChatGLM 2)": Odd(
        "{% set n = namespace(i=0) %}{% for m in messages %}{% if m['role'] == 'user' %}{% set n.i = n.i + 1 %}"
        "{{ '[Round ' ~ n.i ~ ']\n\n问：' ~ m['content'] ~ '\n\n答：' }}"
        "{% elif m['role'] == 'assistant' %}{{ m['content'] ~ '\n\n' }}{% endif %}{% endfor %}",
        "[Round 1]\n\n问：Be brief.\n\nOne?\n\n答：«First answer.»\n\n[Round 2]\n\n问：Two?\n\n答：«Yes»\n\n",
        "\n\n[Round",
    ),
    "no generation prompt (early ChatML)": Odd(_CHATML, _CHATML_WRITTEN, "<|im_end|>"),
    "a channel in the header, another end for the last answer (gpt-oss)": Odd(
        "{% for m in messages %}{% if m['role'] == 'assistant' %}"
        "{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] }}"
        "{{ '<|return|>' if loop.last else '<|end|>' }}"
        "{% else %}{{ '<|start|>' + m['role'] + '<|message|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
        + _PROMPT
        + "{{ '<|start|>assistant' }}{% endif %}",
        "<|start|>system<|message|>Be brief.<|end|><|start|>user<|message|>One?<|end|><|start|>assistant"
        "<|channel|>final<|message|>«First answer.»<|end|><|start|>user<|message|>Two?<|end|><|start|>assistant"
        "<|channel|>final<|message|>«Yes»<|return|>",
        "<|end|>",
    ),
    "reasoning cut from answers, a think block opened in the prompt (DeepSeek R1)": Odd(
        "{{ bos_token or '' }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
        "{% elif m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
        "{% else %}{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] + '<｜end｜>' }}{% endif %}{% endfor %}"
        + _PROMPT
        + "{{ '<｜Assistant｜><think>\n' }}{% endif %}",
        "Be brief.<｜User｜>One?<｜Assistant｜>«First answer.»<｜end｜><｜User｜>Two?<｜Assistant｜>«Yes»<｜end｜>",
        "<｜end｜>",
        "<think>\n\n</think>\n\n",
    ),
    "a think block opened in the prompt, an empty one before the last answer (Qwen3 Thinking)": Odd(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if loop.last and m['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{{ m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        + _PROMPT
        + "{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}",
        _CHATML_WRITTEN.replace("«Yes", "<think>\n\n</think>\n\n«Yes"),
        "<|im_end|>",
    ),
    "a second end behind the last turn (Phi-3)": Odd(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        + _PROMPT
        + "{{ '<|assistant|>\n' }}{% else %}{{ '<|endoftext|>' }}{% endif %}{# <|system|><|user|> #}",
        "<|system|>\nBe brief.<|end|>\n<|user|>\nOne?<|end|>\n<|assistant|>\n«First answer.»<|end|>\n<|user|>\nTwo?"
        "<|end|>\n<|assistant|>\n«Yes»<|end|>\n<|endoftext|>",
        "<|end|>",
    ),
    "the next header ends a turn, nothing the last (GLM-4)": Odd(
        "{{ '[gMASK]<sop>' }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}{% endfor %}"
        + _PROMPT
        + "{{ '<|assistant|>\n' }}{% endif %}{# <|system|><|user|> #}",
        "[gMASK]<sop><|system|>\nBe brief.<|user|>\nOne?<|assistant|>\n«First answer.»<|user|>\nTwo?"
        "<|assistant|>\n«Yes»",
        "<|user|>",
    ),
    "generation markers, tools, calls (Hermes, SmolLM3)": Odd(
        "{% if tools %}{{ 'Tools: ' + tools | tojson }}{% endif %}{% for m in messages %}"
        "{% if m.tool_calls %}{{ raise_exception('calls') }}{% endif %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
        "{% elif m.role == 'tool' %}{{ '<tool>' + m.content }}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}"
        "{{ '\n' }}{% endfor %}" + _ASKED,
        _CHATML_WRITTEN,
        "<|im_end|>",
    ),
    "today's date in the system turn (Llama 3.2, Granite)": Odd(
        "{{ '<|im_start|>system\nToday: ' + strftime_now('%d %b %Y') + '\n' }}"
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set messages = messages[1:] %}{% endif %}"
        "{{ '<|im_end|>' + '\n' }}" + _CHATML + _ASKED,
        _CHATML_WRITTEN.replace("Be brief", "Today: 26 Jul 2024\nBe brief"),
        "<|im_end|>",
    ),
    "the time of day, to the microsecond": Odd(
        "{{ strftime_now('%H:%M:%S.%f') + '\n' }}" + _CHATML + _ASKED,
        "00:00:00.000000\n" + _CHATML_WRITTEN,
        "<|im_end|>",
    ),
    "content as a list, its first part only": Odd(
        _CHATML.replace("m['content']", "m['content'][0]['text']") + _ASKED,
        _CHATML_WRITTEN,
        "<|im_end|>",
    ),
    "text, or a list of parts (Qwen2-VL)": Odd(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.content is string %}{{ m.content }}"
        "{% else %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}"
        "{{ '<|im_end|>' + '\n' }}{% endfor %}" + _ASKED,
        _CHATML_WRITTEN,
        "<|im_end|>",
    ),
    "the system text behind the first question": Odd(
        "{% for m in messages if m['role'] != 'system' %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
        "{% if loop.first and messages[0]['role'] == 'system' %}{{ '\n(' + messages[0]['content'] + ')' }}{% endif %}"
        "{{ '<|im_end|>' + '\n' }}{% endfor %}" + _ASKED,
        _CHATML_WRITTEN.replace("<|im_start|>system\nBe brief.<|im_end|>\n", "").replace("One?", "One?\n(Be brief.)"),
        "<|im_end|>",
    ),
    "a system message is passed over (TinyDolphin)": Odd(
        _CHATML.replace("in messages", "in messages if m['role'] != 'system'") + _ASKED,
        _CHATML_WRITTEN.replace("<|im_start|>system\nBe brief.<|im_end|>\n", "").replace("One?", "Be brief.\n\nOne?"),
        "<|im_end|>",
    ),
    "a system message is refused in words of its own": Odd(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('Only user and model talk here.') }}{% endif %}"
        + _CHATML
        + _ASKED,
        _CHATML_WRITTEN.replace("<|im_start|>system\nBe brief.<|im_end|>\n", "").replace("One?", "Be brief.\n\nOne?"),
        "<|im_end|>",
    ),
    "an instruction and a response in plain words (Alpaca)": Odd(
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + '\n\n' }}"
        "{% elif m['role'] == 'user' %}{{ '### Instruction:\n' + m['content'] + '\n\n' }}"
        "{% else %}{{ '### Response:\n' + m['content'] + '</s>' + '\n\n' }}{% endif %}{% endfor %}"
        + _PROMPT
        + "{{ '### Response:\n' }}{% endif %}",
        "Be brief.\n\n### Instruction:\nOne?\n\n### Response:\n«First answer.»</s>\n\n### Instruction:\nTwo?\n\n"
        "### Response:\n«Yes»</s>\n\n",
        "</s>",
    ),
    "a start of text in every round (Llama 2)": Odd(
        "{% set s = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' %}"
        "{% for m in messages if m['role'] != 'system' %}{% if m['role'] == 'user' %}"
        "{{ '<s>' + '[INST] ' + (s if loop.first else '') + m['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'] + ' ' + '</s>' }}{% endif %}{% endfor %}",
        "<s>[INST] Be brief.\n\nOne? [/INST] «First answer.» </s><s>[INST] Two? [/INST] «Yes» </s>",
        " </s>",
    ),
}
