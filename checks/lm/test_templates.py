"""Templates that nobody here tried (`odd_templates`): each through spans, prompts, generation, pooling and finetuning
labels, against what it writes put down by hand and the naive loop; or a clear error."""

from __future__ import annotations

import pytest
import torch
from architectures import naive_greedy, naive_means
from odd_templates import CONVERSATION, MOMENT, ODD
from popular_templates import POPULAR
from tokenizers import processors
from transformers import AddedToken

from personalab.lm import activations, chat
from personalab.lm.generation import Request, generate
from personalab.lm.lora_data import Dialogue, example_of
from personalab.lm.tiny import load_tiny_model

PROMPT = CONVERSATION[:-1]


def with_template(template, markers=(), family="qwen2"):
    """A tiny model and its tokenizer, which adds tokens of its own around every text, as Llama's adds a BOS."""
    model, tokenizer = load_tiny_model(family)
    tokenizer.add_tokens([AddedToken(t, special=t not in ("<think>", "</think>")) for t in markers])
    start = tokenizer.pad_token, tokenizer.pad_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start[0]} $A {start[0]}", special_tokens=[start]
    )
    tokenizer.chat_template = template
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return model, tokenizer


@pytest.fixture(params=ODD)
def odd(request, monkeypatch):
    monkeypatch.setenv("PERSONALAB_DATE", MOMENT)
    case = ODD[request.param]
    return case, *with_template(case.template, case.markers)


def ids_of(text, tokenizer):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_answers_stand_where_the_template_writes_them(odd):
    case, _, tokenizer = odd
    ids, spans = chat.turn_spans(CONVERSATION, tokenizer)
    assert ids == ids_of(case.text, tokenizer)
    before = [case.text[: case.text.index(answer)] for answer in ("First answer.", "Yes")]
    assert [tokenizer.decode(ids[a:b]).strip() for a, b in spans] == ["First answer.", "Yes"]
    assert [tokenizer.decode(ids[:a]).rstrip(" ") for a, _ in spans] == [text.rstrip(" ") for text in before]


@pytest.mark.parametrize("name", POPULAR)
def test_answers_stand_where_popular_templates_write_them(name):
    case = POPULAR[name]
    test_answers_stand_where_the_template_writes_them((case, *with_template(case.template, case.markers)))


def test_an_answer_follows_on_the_prompt_and_ends_with_its_turn(odd):
    case, model, tokenizer = odd
    ids = ids_of(case.prompt, tokenizer)
    assert chat.prompt_ids(PROMPT, tokenizer) == ids
    stops = [tokenizer.eos_token_id, *ids_of(case.end.strip(), tokenizer)[:1]]
    naive = naive_greedy(model, ids, 4, stops, lambda block, hidden: None)
    (found,) = generate(model, tokenizer, [Request(PROMPT, 4, 0.0)])
    assert found.text == tokenizer.decode(naive, skip_special_tokens=True)

    behind = case.text[case.text.index("First answer.") + len("First answer.") :]  # a model that goes on and on
    script, said = ids_of("Sure thing" + behind.replace("[Round 2]", "[Round 3]"), tokenizer), []

    def say(_module, _args, output):
        output.logits[:] = -10
        output.logits[:, -1, script[min(len(said), len(script) - 1)]] = 10
        said.append(1)

    handle = model.register_forward_hook(say)
    (found,) = generate(model, tokenizer, [Request(PROMPT, 60, 0.0)])
    handle.remove()
    assert (found.text.strip(), found.finish) == ("Sure thing", "stop")


def test_means_are_those_of_the_answer(odd):
    case, model, tokenizer = odd
    found = activations.mean_response_activations(model, tokenizer, [CONVERSATION])
    ids = ids_of(case.text, tokenizer)
    start = max(i for i in range(len(ids)) if tokenizer.decode(ids[i:]).lstrip().startswith("Yes"))
    end = next(i for i in range(start, len(ids) + 1) if tokenizer.decode(ids[start:i]).strip() == "Yes")
    naive = naive_means(model, ids, start, end)
    torch.testing.assert_close(found[0], naive, rtol=1e-4, atol=1e-5)


def test_learned_are_the_answers_and_the_ends_of_their_turns(odd):
    case, _, tokenizer = odd
    example = example_of(Dialogue(CONVERSATION), tokenizer)
    last = "<|return|>" if "<|return|>" in case.text else case.end
    assert tokenizer.decode(example.ids[example.learned]).replace(" ", "") == (
        f"First answer.{case.end}Yes{last}".replace(" ", "")
    )


CHATML = ODD["no generation prompt (early ChatML)"].template
REFUSED = {
    "the last two messages only": (
        CHATML.replace("in messages", "in messages[-2:]"),
        "leaves out or changes the text of message 0",
    ),
    "content in small letters": (
        CHATML.replace("m['content']", "m['content'] | lower"),
        "changes the text of message 0",
    ),
    "content escaped for HTML": (CHATML.replace("m['content']", "m['content'] | e"), "changes the text of message 1"),
    "content as JSON": (CHATML.replace("m['content']", "m['content'] | tojson"), "changes the text of message 2"),
    "a think block cut out of what a user wrote": (
        CHATML.replace("m['content']", "m['content'].split('&')[-1]"),
        "changes the text of message 1",
    ),
    "the number of letters before each text": (
        CHATML.replace("m['content']", "m['content'] | length ~ ':' ~ m['content']"),
        "moves other text when message 2 changes",
    ),
    "a field that messages lack": (CHATML.replace("m['role']", "m['name'] + m['role']"), "refuses a conversation of"),
    "a filter that there is not": (CHATML.replace("m['role']", "m['role'] | shout"), "shout"),
    "half a template": (CHATML[:-12], "refuses a conversation of"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_template_does_to_texts_is_named(name):
    template, says = REFUSED[name]
    messages = chat.as_messages("Be Brief.", "Salt & sea?", "One\nTwo")
    tokenizer = with_template(template, ["<|im_start|>", "<|im_end|>"])[1]
    with pytest.raises(ValueError, match=says) as raised:
        chat.turn_spans(messages, tokenizer)
    assert type(raised.value) is ValueError and "tiny-qwen2" in str(raised.value)


def test_a_tool_s_message_is_refused_by_name():
    with pytest.raises(ValueError, match=r"messages\[1\]\['role'\] is 'tool'; use one of system, user, assistant"):
        chat.render([PROMPT[1], {"role": "tool", "content": "42"}], load_tiny_model("qwen2")[1])


def test_without_a_date_all_of_a_run_reads_one_moment(monkeypatch):
    monkeypatch.delenv("PERSONALAB_DATE", raising=False)
    _, tokenizer = with_template(ODD["the time of day, to the microsecond"].template)
    assert chat.render(CONVERSATION, tokenizer) == chat.render(CONVERSATION, tokenizer)
    chat.turn_spans(CONVERSATION, tokenizer)
    monkeypatch.setenv("PERSONALAB_DATE", "26 July")
    with pytest.raises(ValueError, match="PERSONALAB_DATE is '26 July': write a day as"):
        chat.render(CONVERSATION, tokenizer)
