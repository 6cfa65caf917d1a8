"""Tokenizers of SentencePiece's kind (Llama 2, Mistral, Gemma, T5's Unigram): spaces are part of the tokens, a space is
put in front, unknown letters become bytes. Spans, labels and prompts in the layouts that go with them."""

from __future__ import annotations

import functools

import pytest
import torch
from architectures import naive_means
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from personalab.lm import activations, chat
from personalab.lm.generation import Request, generate
from personalab.lm.lora_data import Dialogue, example_of
from personalab.lm.tiny import load_tiny_model

WORDS = ["Hello there, how are you today? (sigh) no. First answer. USER: ASSISTANT: model said One? Two? Yes."] * 3
CONTROL = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>")
BYTES = [f"<0x{i:02X}>" for i in range(256)]
# A template's turns: how a question and an answer are written, and what ends an answer.
LAYOUTS = {
    "llama 2": ("{{ bos_token + '[INST] ' + c + ' [/INST]' }}", "{{ ' ' + c + ' ' + eos_token }}", "", "</s>"),
    "mistral": ("{{ '[INST] ' + c + '[/INST]' }}", "{{ c + eos_token }}", "", "</s>"),
    "zephyr": (
        "{{ '<|user|>\n' + c + eos_token + '\n' }}",
        "{{ '<|assistant|>\n' + c + eos_token + '\n' }}",
        "<|assistant|>\n",
        "</s>",
    ),
    "gemma": (
        "{{ '<start_of_turn>user\n' + c + '<end_of_turn>\n' }}",
        "{{ '<start_of_turn>model\n' + c + '<end_of_turn>\n' }}",
        "<start_of_turn>model\n",
        "<end_of_turn>",
    ),
    "vicuna": ("{{ 'USER: ' + c + ' ' }}", "{{ 'ASSISTANT: ' + c + eos_token }}", "ASSISTANT:", "</s>"),
    "falcon": ("{{ 'User: ' + c + '\n' }}", "{{ 'Falcon: ' + c + '\n' }}", "Falcon:", "\nUser:"),
}
ANSWERS = (
    "Yes",
    "Hello there, how are you?",
    "(sigh) no",
    "\u65e5\u672c\u8a9e",
    "Yes \U0001f642",
    "  two\n\nmore ",
    "'s",
)


@functools.cache
def core(kind: str) -> Tokenizer:
    if kind == "unigram":  # T5, XLNet: without bytes, and it writes what it does not know as one token
        made = Tokenizer(models.Unigram())
        made.normalizer = normalizers.Replace("\n", "\u2581")
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        alphabet = sorted(set("".join(ANSWERS)))
        made.train_from_iterator(
            WORDS,
            trainers.UnigramTrainer(
                vocab_size=160,
                special_tokens=[*CONTROL],
                unk_token="<unk>",
                initial_alphabet=alphabet,
                show_progress=False,
            ),
        )
        return made
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=[*CONTROL, *BYTES], show_progress=False)
    made.train_from_iterator(WORDS, trainer)
    strip = [decoders.Strip(" ", 1, 0)]
    if kind == "prepended":  # Llama 2 as first published
        made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        made.pre_tokenizer = None  # type: ignore[assignment]
    elif kind == "gemma":  # no space in front
        made.normalizer, strip = normalizers.Replace(" ", "\u2581"), []
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:  # "first" (Mistral, Llama 2 later) or "always": again behind every control token
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return made


@functools.cache
def tokenizer_of(kind: str, layout: str) -> PreTrainedTokenizerFast:
    asked, said, begins, _ = LAYOUTS[layout]
    made = Tokenizer.from_str(core(kind).to_str())
    made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>", name_or_path=f"{kind}-{layout}"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{% set c = m['content'] %}{% if m['role'] == 'user' %}" + asked + "{% else %}" + said
    ) + ("{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '" + begins + "' }}{% endif %}")
    return tokenizer


KINDS = ("prepended", "first", "always", "gemma", "unigram")


def talk(answer: str) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "First answer."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": answer},
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_spans_hold_the_answers_and_labels_their_ends(kind: str, layout: str) -> None:
    tokenizer, end = tokenizer_of(kind, layout), LAYOUTS[layout][3]
    for answer in ANSWERS:
        messages, said = talk(answer), answer.strip()
        said = said.replace("\n", " ") if kind == "unigram" else said  # which knows no line breaks
        ids, spans = chat.turn_spans(messages, tokenizer)
        assert ids == tokenizer(chat.render(messages, tokenizer), add_special_tokens=False)["input_ids"]
        assert [tokenizer.decode(ids[a:b]).strip() for a, b in spans] == ["First answer.", said]
        example = example_of(Dialogue(messages), tokenizer)
        learned = tokenizer.decode(example.ids[example.learned]).replace(" ", "").replace("\n", "")
        assert learned == "".join(f"First answer.{end}{said}{end}".split())


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "falcon"])  # its end is a byte, special here
@pytest.mark.parametrize("kind", KINDS[:-1])  # the small Unigram cannot spell what stop strings are probed with
def test_means_and_answers_are_those_of_the_text(kind: str, layout: str) -> None:
    tokenizer, (model, _) = tokenizer_of(kind, layout), load_tiny_model("llama")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    ids = chat.encode(talk("Yes"), tokenizer).ids
    end = next(n for n in range(len(ids) + 1) if tokenizer.decode(ids[:n]).rstrip().endswith("Yes"))
    start = max(i for i in range(end) if tokenizer.decode(ids[i:end]).strip() == "Yes")
    found = activations.mean_response_activations(model, tokenizer, [talk("Yes")])
    torch.testing.assert_close(found[0], naive_means(model, ids, start, end), rtol=1e-4, atol=1e-5)

    script, said = ids[start:end] + chat.ended(ids, end, tokenizer)[end:] + ids[:20], []

    def say(_module: object, _args: object, output: torch.Tensor) -> None:  # the answer, its end, and on and on
        output.logits[:] = -10
        output.logits[:, -1, script[min(len(said), len(script) - 1)]] = 10
        said.append(1)

    handle = model.register_forward_hook(say)
    (answer,) = generate(model, tokenizer, [Request(talk("")[:3], 40, 0.0)])
    handle.remove()
    assert (answer.text.strip(), answer.finish) == ("Yes", "stop")
