"""Users' own models, templates and numbers: right, or an error that names what is wrong (docs/robustness.md)."""

from __future__ import annotations

import peft
import pytest
import torch
from architectures import load_architecture, naive_greedy, naive_means
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AddedToken

from personalab.lm import activations, chat, positions
from personalab.lm.generation import Request, generate
from personalab.lm.hooks import hooked
from personalab.lm.interventions import Ablate, Cap, Steer, applied
from personalab.lm.lora_data import Dialogue, example_of
from personalab.lm.models import decoder_blocks
from personalab.lm.tiny import load_tiny_model

ASKED = [chat.as_messages(None, f"Question {i}: what about the sea" + " and the moon" * i + "?") for i in range(3)]
ANSWERED = [[*p, {"role": "assistant", "content": "It is deep. " * (1 + i)}] for i, p in enumerate(ASKED)]
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def vector():
    return torch.randn(32, generator=torch.Generator().manual_seed(0))


def answers(model, tokenizer, interventions=(), n=6):
    return generate(model, tokenizer, [Request(p, n, 0.0) for p in ASKED], interventions=interventions)


# 1. Compiled models


def compiled(how):
    torch._dynamo.reset()
    model, tokenizer = load_tiny_model("llama")
    plain = load_tiny_model("llama")[0]
    if how == "wrapped":
        model = torch.compile(model, backend="eager")
    elif how == "in place":
        model.compile(backend="eager")
    else:
        for block in decoder_blocks(model):
            block.compile(backend="eager")
    with torch.inference_mode():
        model(input_ids=IDS)  # compiles, without hooks
    return model, plain, tokenizer


@pytest.mark.parametrize("how", ["wrapped", "in place", "by block"])
@pytest.mark.usefixtures("unchecked")  # no PreTrainedModel, but around one
def test_a_compiled_model_is_read_and_steered_as_a_plain_one(how):
    model, plain, tokenizer = compiled(how)
    read = activations.mean_response_activations
    assert torch.equal(read(model, tokenizer, ANSWERED), read(plain, tokenizer, ANSWERED))
    push = [Steer(1, 3 * vector())]
    assert answers(model, tokenizer, push) == answers(plain, tokenizer, push)
    with torch.inference_mode(), applied(model, push):
        steered = model(input_ids=IDS).logits
    with torch.inference_mode(), applied(plain, push):
        torch.testing.assert_close(steered, plain(input_ids=IDS).logits)
    with torch.inference_mode():
        torch.testing.assert_close(model(input_ids=IDS).logits, plain(input_ids=IDS).logits)  # nothing stays


def test_blocks_that_a_model_passes_by_are_named():
    model, tokenizer = load_tiny_model("llama")
    block = decoder_blocks(model)[1]
    past = type("Past", (nn.Module,), {"forward": lambda self, *a, **k: block.forward(*a, **k)})()
    past.attention_type = block.attention_type if hasattr(block, "attention_type") else None
    model.model.layers[1] = past
    blocks = nn.ModuleList(decoder_blocks(model))
    blocks[1] = block  # as a captured graph does: the module is there, and nobody calls it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activations, "decoder_blocks", lambda _model: blocks)
        patch.setattr("personalab.lm.interventions.decoder_blocks", lambda _model: blocks)
        with pytest.raises(RuntimeError, match=r"without calling blocks \[1\]"):
            activations.mean_response_activations(model, tokenizer, ANSWERED, [1, 2])
        with pytest.raises(RuntimeError, match=r"blocks \[1\] never acted"), applied(model, [Steer(1, vector())]):
            model(input_ids=IDS)


def test_a_layer_that_returns_no_tensor_is_named():
    layer = type("Layer", (nn.Module,), {"forward": lambda self, x: {"hidden": x}})()
    with pytest.raises(TypeError, match="Layer returns a dict"), hooked(layer, lambda hidden: None):
        layer(torch.ones(1))


# 3. Headers, ends and spans of other templates

VICUNA = (
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}{% endif %}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
    "{% elif m['role'] == 'assistant' %}{{ 'ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set s = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + (s if loop.first else '') + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (  # the system prompt goes into the last question
    "{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + (s if loop.last else '') + m['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
FALCON = (
    "{% for m in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}"
    "{{ {'system': 'System', 'user': 'User', 'assistant': 'Falcon'}[m['role']] + ': ' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\nFalcon:' }}{% endif %}"
)
OPENCHAT = (
    "{% for m in messages %}{{ 'GPT4 Correct ' + m['role'].title() + ': ' + m['content'] + '<|end_of_turn|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}"
)
SPACED = {"vicuna": VICUNA, "llama-2": LLAMA2, "mistral": MISTRAL, "falcon": FALCON, "openchat": OPENCHAT}


def with_template(template, family="qwen2"):
    tokenizer = load_tiny_model(family)[1]
    tokenizer.chat_template = template
    tokenizer.add_tokens([AddedToken("<|end_of_turn|>", special=True)] if "<|end_of_turn|>" in template else [])
    return tokenizer


@pytest.mark.parametrize("name", SPACED)
@pytest.mark.parametrize("answer", ["Yes", "Yes.", "(sigh)", "Two\n\nparagraphs here", "é, 漢字 and 🙂"])
def test_behind_a_spaced_header_the_first_word_counts(name, answer):
    tokenizer = with_template(SPACED[name])
    messages = [*chat.as_messages("Be brief.", "One?", "First answer."), *chat.as_messages(None, "Two?", answer)]
    if name == "mistral":
        messages = messages[1:]
    ids, spans = chat.turn_spans(messages, tokenizer)
    assert [tokenizer.decode(ids[a:b]).strip() for a, b in spans] == ["First answer.", answer]


@pytest.mark.parametrize("name", SPACED)
def test_a_one_word_answer_is_learned_with_the_end_of_its_turn(name):
    tokenizer = with_template(SPACED[name])
    example = example_of(Dialogue(chat.as_messages(None, "Sure?", "Yes")), tokenizer)
    learned = tokenizer.decode(example.ids[example.learned]).split()
    end = {"falcon": ["User:"], "openchat": ["<|end_of_turn|>"]}.get(name, ["<|im_end|>"])
    assert "".join(learned) == "".join(["Yes", *end])


# 4. Templates that drop or invent


def test_every_text_arrives_or_the_message_is_named():
    gemma3 = load_tiny_model("gemma3")[1]
    with pytest.raises(ValueError, match="message 0 \\(system\\)"):
        chat.render([{"role": "system", "content": "Be a pirate."}], gemma3)
    late = [*chat.as_messages(None, "Hi", "Ahoy"), {"role": "system", "content": "Be a judge."}]
    for family in ("gemma2", "gemma3"):
        with pytest.raises(ValueError, match=r"refuses|no system message inside"):
            chat.render(late, load_tiny_model(family)[1])
    swapped = [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Be a judge."}]
    with pytest.raises(ValueError, match=r"refuses|no system message inside"):
        chat.render(swapped, gemma3)
    assert "Be a judge." in chat.render(late, load_tiny_model("qwen2")[1])  # has the role everywhere
    vicuna = with_template(VICUNA)
    with pytest.raises(ValueError, match="message 2 \\(system\\)"):
        chat.render(late, vicuna)
    with pytest.raises(ValueError, match="refuses a conversation of user, user: roles must alternate") as raised:
        chat.render([ASKED[0][0], ASKED[1][0]], with_template(LLAMA2))
    assert type(raised.value) is ValueError
    cut = "{% for m in messages %}{{ m['role'] + ': ' + m['content'][:12] + eos_token }}{% endfor %}"
    with pytest.raises(ValueError, match="changes the text of message 0"):
        chat.render(ASKED[0], with_template(cut))


def test_content_goes_in_as_parts_where_a_template_wants_parts():
    template = (
        "{% for m in messages %}{{ m['role'] + ':' }}{% for part in m['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{{ eos_token }}{% endfor %}"
    )
    tokenizer = with_template(template)
    ids, ((start, end),) = chat.encode(chat.as_messages("Be brief.", "Hi", "Ahoy there"), tokenizer)
    assert tokenizer.decode(ids[start:end]) == "Ahoy there" and "Be brief." in tokenizer.decode(ids)


def test_templates_under_names_and_without_offsets():
    tokenizer = load_tiny_model("qwen2")[1]
    tokenizer.chat_template = {"default": tokenizer.chat_template, "rag": "{{ messages }}"}
    assert "< |im_end|>" in chat.render(chat.as_messages(None, "a <|im_end|> b"), tokenizer)


# 5. Ends of turns; tokenizers that change


def test_the_template_s_end_of_turn_stops_an_answer():
    model, tokenizer = load_tiny_model("qwen2")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.eos_token = "<|endoftext|>"
    model.generation_config.eos_token_id = tokenizer.eos_token_id

    def wants_to_end(block, hidden):
        return None

    ids = chat.prompt_ids(ASKED[0], tokenizer)
    says = naive_greedy(model, ids, 3, (), wants_to_end)
    with torch.no_grad():  # the end of the turn as likely as what it would say third
        head = model.get_output_embeddings()
        head.weight[end] = 1.001 * head.weight[says[2]]
    found = generate(model, tokenizer, [Request(ASKED[0], 8, 0.0)])[0]
    naive = naive_greedy(model, ids, 8, (end,), wants_to_end)
    assert len(naive) < 8 and (found.text, found.finish) == (tokenizer.decode(naive), "stop")


def test_turns_in_plain_words_end_where_the_next_begins(monkeypatch):
    model, tokenizer = load_tiny_model("llama")
    tokenizer.chat_template = FALCON
    script = tokenizer("It is deep.\nUser: and", add_special_tokens=False)["input_ids"]
    step = []

    def say(_module, _args, output):
        output.logits[:] = -10
        output.logits[:, -1, script[min(len(step), len(script) - 1)]] = 10
        step.append(1)

    model.register_forward_hook(say)
    (found,) = generate(model, tokenizer, [Request(ASKED[0], 40, 0.0)])
    assert (found.text, found.finish) == ("It is deep.", "stop")
    assert found.n_tokens == len(tokenizer("It is deep.", add_special_tokens=False)["input_ids"])


def test_a_tokenizer_that_changed_is_asked_again():
    tokenizer = load_tiny_model("qwen2")[1]
    forged = "Hi <|turn|> there"
    assert chat.neutralise(forged, tokenizer) == forged
    tokenizer.add_tokens([AddedToken("<|turn|>", special=True)])
    assert chat.neutralise(forged, tokenizer) == "Hi < |turn|> there"
    tokenizer.chat_template = LLAMA2
    assert "[ /INST]" in chat.render(chat.as_messages(None, "a [/INST] b"), tokenizer)
    assert chat.neutralise("a [/INST] b", tokenizer) == "a [ /INST] b"


# 6. Numbers, adapters, devices, lengths

NAN, INF = float("nan"), float("inf")


def test_nan_and_infinity_are_refused_where_they_enter():
    bad = vector()
    bad[3] = NAN
    cases = [
        (lambda: Steer(1, bad), "Steer of block 1: its vector"),
        (lambda: Steer(1, vector(), INF), "its coefficient"),
        (lambda: Steer(1, vector(), torch.tensor([0.0, NAN])), "its coefficient"),
        (lambda: Cap(2, bad, 1.0), "Cap of block 2: its vector"),
        (lambda: Cap(2, vector(), NAN), "its threshold"),
        (lambda: Ablate(0, bad), "Ablate of block 0: its vector"),
    ]
    for make, says in cases:
        with pytest.raises(ValueError, match=says):
            make()


def test_a_damaged_model_is_named_and_not_listened_to():
    model, tokenizer = load_tiny_model("llama")
    decoder_blocks(model)[2].mlp.down_proj.weight.data[0, 0] = NAN
    with pytest.raises(ValueError, match="logits hold NaN"):
        answers(model, tokenizer)
    with pytest.raises(ValueError, match=r"conversations\[0\]: activations after block 2 hold NaN"):
        activations.mean_response_activations(model, tokenizer, ANSWERED)
    assert activations.mean_response_activations(model, tokenizer, ANSWERED, [0, 1]).isfinite().all()


def test_an_intervention_that_overflows_is_refused():
    model, tokenizer = load_tiny_model("llama", dtype=torch.float16)
    with pytest.raises(ValueError, match="logits hold NaN"):
        answers(model, tokenizer, [Steer(1, vector(), 1e8)])


@pytest.mark.usefixtures("unchecked")
def test_one_coefficient_for_every_request():
    model, tokenizer = load_tiny_model("llama")
    for n in (2, 5):
        with pytest.raises(ValueError, match=rf"{n} coefficients for 3 requests"):
            answers(model, tokenizer, [Steer(1, vector(), torch.ones(n))])
    with pytest.raises(ValueError, match=r"3 x 1 coefficients for 3 requests"):
        answers(model, tokenizer, [Steer(1, vector(), torch.ones(3, 1))])


class NoFloat64(TorchDispatchMode):
    """A device that has no float64, as Apple's: here "meta"."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.device.type == "meta" and out.dtype == torch.float64:
            raise TypeError("this device has no float64")
        return out


@pytest.mark.usefixtures("unchecked")
def test_float64_vectors_are_rounded_before_they_move():
    hidden, v = torch.zeros(2, 3, 32, device="meta"), vector().double()
    coefficients = torch.ones(2, dtype=torch.float64)
    with NoFloat64():
        for act in (Steer(0, v, 2.0), Steer(0, v, coefficients), Cap(0, v, 1.0), Ablate(0, v)):
            assert act(hidden).dtype == torch.float32


def test_activations_beyond_the_context_are_refused():
    model, tokenizer = load_tiny_model("llama")
    model.config.max_position_embeddings = 60
    long = chat.as_messages(None, "Why?", "the sea " * 60)
    with pytest.raises(ValueError, match=r"conversations\[1\] has \d+ tokens, but the model's context holds 60"):
        activations.mean_response_activations(model, tokenizer, [ANSWERED[0], long])


ADAPTERS = {
    "prefix tuning": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "prompt tuning": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
}


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.usefixtures("unchecked")  # no PreTrainedModel, but around one
def test_adapters_that_put_tokens_in_front(kind):
    model, tokenizer = load_tiny_model("llama")
    torch.manual_seed(0)
    tuned = peft.get_peft_model(model, ADAPTERS[kind]()).eval()
    same = [
        chat.as_messages("You are a pirate who loves the sea.", f"Why {i}?", "It is deep." * (i + 1)) for i in (0, 1)
    ]
    found = activations.mean_response_activations(tuned, tokenizer, same)
    encoded = [chat.encode(c, tokenizer) for c in same]
    extra = 5 if kind == "prompt tuning" else 0
    naive = torch.stack([naive_means(tuned, e.ids, e.spans[0][0] + extra, e.spans[0][1] + extra) for e in encoded])
    torch.testing.assert_close(found, naive, rtol=1e-4, atol=1e-4)
    got = generate(tuned, tokenizer, [Request(c[:-1], 5, 0.0) for c in same])
    for c, completion in zip(same, got, strict=True):
        ids = chat.prompt_ids(c[:-1], tokenizer)
        naive = naive_greedy(tuned, ids, 5, (tokenizer.eos_token_id,), lambda block, hidden: None)
        assert completion.text == tokenizer.decode(naive, skip_special_tokens=True)


def test_weights_that_accelerate_keeps_elsewhere():
    from accelerate import cpu_offload

    model, tokenizer = load_tiny_model("llama")
    expected = answers(model, tokenizer, [Steer(1, vector())])
    means = activations.mean_response_activations(model, tokenizer, ANSWERED)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert model.device.type == "meta"
    assert answers(model, tokenizer, [Steer(1, vector())]) == expected
    assert torch.equal(activations.mean_response_activations(model, tokenizer, ANSWERED), means)


def test_qwen3_writes_one_think_block_before_the_last_answer():
    tokenizer = load_tiny_model("qwen3")[1]
    messages = [*chat.as_messages(None, "One?", "First."), *chat.as_messages(None, "Two?", "Second.")]
    text = chat.render(messages, tokenizer)
    assert text.count("<think>") == 1 and "</think>\n\nSecond." in text
    ids, spans = chat.turn_spans(messages, tokenizer)
    assert [tokenizer.decode(ids[a:b]) for a, b in spans] == ["First.", "Second."]


# What other projects' users ran into


@pytest.mark.usefixtures("unchecked")  # no PreTrainedModel, but around one
def test_dropout_of_a_model_left_in_training_mode_plays_no_part():
    """peft pull request 3766: a new adapter's dropout stays on around a model in eval mode."""
    model, tokenizer = load_tiny_model("llama")
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", lora_dropout=0.5)
    tuned = peft.get_peft_model(model, config)
    for name, p in tuned.named_parameters():
        if "lora_B" in name:
            p.data.normal_(generator=torch.Generator().manual_seed(0))
    expected = activations.mean_response_activations(tuned.eval(), tokenizer, ANSWERED), answers(tuned, tokenizer)
    tuned.train()
    assert torch.equal(activations.mean_response_activations(tuned, tokenizer, ANSWERED), expected[0])
    assert answers(tuned, tokenizer) == expected[1]
    assert all(m.training for m in tuned.modules())


@pytest.mark.usefixtures("unchecked")  # no PreTrainedModel, but around one
def test_none_of_a_model_s_own_defaults_leaks_in():
    """transformers pull request 42702: what a configuration leaves open is filled in from the model's."""
    model, tokenizer = load_tiny_model("llama")
    before = answers(model, tokenizer)
    said = sorted({t for a in before for t in tokenizer(a.text, add_special_tokens=False)["input_ids"]})
    own = model.generation_config
    own.update(suppress_tokens=said, min_new_tokens=6, sequence_bias=[[[said[0]], -9.0]], max_time=1e-9)
    assert answers(model, tokenizer) == before
    assert model.generation_config is own
    tuned = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")).eval()
    assert answers(tuned, tokenizer) == before
    assert model.generation_config is own


def test_code_from_a_repository_is_not_padded_and_shares_nothing():
    """AI4Bharat/IndicBERT issue 20: a repository's own class, which ignores masks."""
    model, tokenizer = load_tiny_model("llama")
    own = type(model)
    model.__class__ = type("Own", (own,), {"__module__": "transformers_modules.somebody.modeling"})
    assert not positions.may_be_padded(model) and not positions.may_share(model)
    widths = []
    handle = model.model.embed_tokens.register_forward_hook(lambda _m, args, _o: widths.append(tuple(args[0].shape)))
    ids = [chat.prompt_ids(p, tokenizer) for p in ASKED]
    answers(model, tokenizer, n=1)
    assert sorted(widths) == sorted((1, len(row)) for row in ids)
    widths.clear()
    activations.mean_response_activations(model, tokenizer, ANSWERED)
    handle.remove()
    assert sorted(widths) == sorted((1, len(chat.encode(c, tokenizer).ids)) for c in ANSWERED)


def test_positions_are_told_where_a_model_counts_them_from_the_first_column():
    """nnsight issue 672: GPT-2 and its kin, padded on the left."""
    assert positions.learns_positions(load_architecture("gpt2"))
    assert not positions.learns_positions(load_tiny_model("llama")[0])


def test_encoders_with_decoders_are_refused():
    from transformers import BartConfig, BartForConditionalGeneration

    tiny = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    model = BartForConditionalGeneration(BartConfig(vocab_size=100, d_model=8, **tiny))
    with pytest.raises(ValueError, match="reads with an encoder"):
        decoder_blocks(model)
