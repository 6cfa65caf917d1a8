# Over 300 lines on purpose: one file an exercise, and its table of solutions is the content.
from contextlib import ExitStack, nullcontext

import pandas as pd
import torch

import utils
from checks.bank import right, wrong
from personalab.lm.models import decoder_blocks


class Capper:
    def __init__(self, model, vectors, thresholds, layers, only_last=False):
        self.model, self.caps, self.only_last = model, list(zip(vectors, thresholds, layers, strict=True)), only_last
        self.handles = []

    def hook(self, vector, threshold):
        unit = vector / vector.norm()

        def cap(module, args, output):
            excess = (output.float() @ unit - threshold).clamp(min=0)
            if self.only_last:
                excess[:, :-1] = 0
            return output - (excess[..., None] * unit).to(output.dtype)

        return cap

    def __enter__(self):
        for vector, threshold, layer in self.caps:
            handle = decoder_blocks(self.model)[layer].register_forward_hook(self.hook(vector, threshold))
            self.handles.append(handle)

    def __exit__(self, *exc):
        for handle in self.handles:
            handle.remove()


def answer(model, tokenizer, messages, max_new_tokens, **kwargs):
    text = utils.render_prompt(messages, tokenizer)
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)
    output = model.generate(
        **inputs, **{"max_new_tokens": max_new_tokens, "do_sample": True, "temperature": 0.7} | kwargs
    )
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def user_turns(transcript, max_turns):
    return [m["content"] for m in transcript if m["role"] == "user"][:max_turns]


def replay(model, tokenizer, turns, n, around=nullcontext):
    history = []
    for content in turns:
        history.append({"role": "user", "content": content})
        with around():
            history.append({"role": "assistant", "content": answer(model, tokenizer, history, n)})
    return history


@right
def run_by_run(model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200):
    turns = user_turns(transcript, max_turns)
    default = replay(model, tokenizer, turns, max_new_tokens)
    capped = replay(
        model, tokenizer, turns, max_new_tokens, lambda: Capper(model, cap_vectors, cap_thresholds, cap_layers)
    )
    return default, capped


@right
def turn_by_turn(
    model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200
):
    default, capped = [], []
    for content in user_turns(transcript, max_turns):
        for history, on in ((capped, True), (default, False)):
            history.append({"role": "user", "content": content})
            with Capper(model, cap_vectors, cap_thresholds, cap_layers) if on else nullcontext():
                text = answer(model, tokenizer, history, max_new_tokens).strip()
            history.append({"role": "assistant", "content": text})
    return default, capped


@right
def capped_first_in_one_context(
    model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200
):
    """One context for all capped turns; greedy; output as an object."""

    def run():
        history = []
        for content in user_turns(transcript, max_turns):
            history = [*history, {"role": "user", "content": content}]
            ids = tokenizer(utils.render_prompt(history, tokenizer), add_special_tokens=False, return_tensors="pt")
            with torch.no_grad():
                output = model.generate(
                    ids["input_ids"], max_new_tokens=max_new_tokens, do_sample=False, return_dict_in_generate=True
                )
            text = tokenizer.decode(output.sequences[0][ids["input_ids"].shape[1] :], skip_special_tokens=True)
            history = [*history, {"role": "assistant", "content": text}]
        return history

    with Capper(model, cap_vectors, cap_thresholds, cap_layers):
        capped = run()
    return run(), capped


def variant(
    turn=lambda default, capped, content: (default, capped),
    first=False,
    off_after=None,
    default_capped=False,
    capper=Capper,
    swap=False,
    n=None,
):
    """Both runs turn by turn, with one mistake.

    Args:
        turn: the histories that the two answers are made from, without the user's turn.
    """

    def run(model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200):
        default, capped = [], []
        for k, content in enumerate(user_turns(transcript, max_turns)):
            made = []
            for on, history in zip((default_capped, True), turn(default, capped, content), strict=True):
                on = on and (off_after is None or k < off_after)
                with capper(model, cap_vectors, cap_thresholds, cap_layers) if on else nullcontext():
                    messages = [*history, {"role": "user", "content": content}]
                    made.append(answer(model, tokenizer, messages, n or max_new_tokens))
            for history, text in zip((default, capped), made, strict=True):
                history += [{"role": "user", "content": content}, {"role": "assistant", "content": text}]
        return (capped, default) if swap else (default, capped)

    return run


capped_history_in_the_default_run = wrong("default run, turn 1: the prompt holds an answer of the capped run")(
    variant(lambda default, capped, content: (capped, capped))
)
default_history_in_the_capped_run = wrong("capped run, turn 1: the prompt holds an answer of the default run")(
    variant(lambda default, capped, content: (default, default))
)
no_history = wrong("Hand the run's earlier turns on")(variant(lambda default, capped, content: ([], [])))
history_without_answers = wrong("Hand the run's earlier turns on, answers included")(
    variant(lambda *histories: [[m for m in h if m["role"] == "user"] for h in histories[:2]])
)
user_turn_twice = wrong("holds the user's turn 2 times")(
    variant(lambda *histories: [[*h, {"role": "user", "content": histories[2]}] for h in histories[:2]])
)
default_run_capped_too = wrong("default run, turn 0.*the cap is on")(variant(default_capped=True))
never_capped = wrong("capped run, turn 0.*cap is off")(variant(off_after=0))
only_the_first_turn_capped = wrong("capped run, turn 1.*cap is off")(variant(off_after=1))
swapped = wrong("are the two swapped")(variant(swap=True))
long_answers = wrong("max_new_tokens=3 tokens, found one of")(variant(n=5))
one_block_only = wrong("only on some blocks")(
    variant(capper=lambda model, vectors, thresholds, layers: Capper(model, vectors[:1], thresholds[:1], layers[:1]))
)
last_position_only = wrong("only on some blocks or positions")(
    variant(capper=lambda *args: Capper(*args, only_last=True))
)


@wrong("not messages")
def max_messages(
    model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200
):
    return run_by_run(
        model, tokenizer, transcript[:max_turns], cap_vectors, cap_thresholds, cap_layers, 99, max_new_tokens
    )


@wrong("counts user turns")
def whole_transcript(
    model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200
):
    return run_by_run(model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, 99, max_new_tokens)


@wrong("the transcript's own answer")
def history_of_the_transcript(
    model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200
):
    runs = []
    places = [i for i, m in enumerate(transcript) if m["role"] == "user"][:max_turns]
    for around in (nullcontext, lambda: Capper(model, cap_vectors, cap_thresholds, cap_layers)):
        messages = []
        for i in places:
            with around():
                text = answer(model, tokenizer, transcript[: i + 1], max_new_tokens)
            messages += [transcript[i], {"role": "assistant", "content": text}]
        runs.append(messages)
    return tuple(runs)


@wrong("own answer: the model has to answer anew")
def default_is_the_transcript(
    model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200
):
    _, capped = run_by_run(
        model, tokenizer, transcript[:6], cap_vectors, cap_thresholds, cap_layers, max_turns, max_new_tokens
    )
    return transcript[: len(capped)], capped


@wrong("one and the same list")
def one_list_for_both(
    model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200
):
    default = capped = []
    for content in user_turns(transcript, max_turns):
        for history, on in ((default, False), (capped, True)):
            history.append({"role": "user", "content": content})
            with Capper(model, cap_vectors, cap_thresholds, cap_layers) if on else nullcontext():
                history.append({"role": "assistant", "content": answer(model, tokenizer, history, max_new_tokens)})
    return default, capped


@wrong("same generation stands in")
def same_first_answer(
    model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200
):
    default, capped = run_by_run(
        model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns, max_new_tokens
    )
    return default, [*default[:2], *capped[2:]]


@wrong("more than the answer")
def prompt_in_the_answer(
    model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200
):
    default, capped = run_by_run(
        model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns, max_new_tokens
    )
    default[-1]["content"] = f"assistant {default[-1]['content']}"
    return default, capped


@wrong("afterwards.*left behind")
def capping_left_on(
    model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200
):
    turns = user_turns(transcript, max_turns)
    default = replay(model, tokenizer, turns, max_new_tokens)
    Capper(model, cap_vectors, cap_thresholds, cap_layers).__enter__()
    return default, replay(model, tokenizer, turns, max_new_tokens)


@wrong("afterwards.*left behind")
def left_too_late(
    model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200
):
    """Leaves the capper after the transcript's last user turn, which max_turns may never reach."""
    stack, capped = ExitStack(), []
    everything = user_turns(transcript, None)
    default = replay(model, tokenizer, everything[:max_turns], max_new_tokens)
    stack.enter_context(Capper(model, cap_vectors, cap_thresholds, cap_layers))
    for content in everything[:max_turns]:
        capped.append({"role": "user", "content": content})
        capped.append({"role": "assistant", "content": answer(model, tokenizer, capped, max_new_tokens)})
        if content == everything[-1]:
            stack.close()
    return default, capped


@wrong("After an error.*left behind")
def left_on_after_an_error(
    model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200
):
    turns = user_turns(transcript, max_turns)
    default = replay(model, tokenizer, turns, max_new_tokens)
    capper = Capper(model, cap_vectors, cap_thresholds, cap_layers)
    capper.__enter__()
    capped = replay(model, tokenizer, turns, max_new_tokens)
    capper.__exit__()
    return default, capped


@wrong("transcript was changed")
def pops_the_transcript(
    model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200
):
    found = run_by_run(model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns, max_new_tokens)
    transcript.pop()
    return found


@wrong("tuple of two lists")
def only_capped(model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200):
    return run_by_run(model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns, max_new_tokens)[
        1
    ]


def loop(model, tokenizer, history, n, temperature=0.7, cached=True):
    """A hand-written loop of forward passes: multinomial draws, or the likeliest token."""
    prompt = tokenizer(utils.render_prompt(history, tokenizer), add_special_tokens=False)["input_ids"]
    new, cache, ids = [], None, prompt
    while len(new) < n and tokenizer.eos_token_id not in new:
        with torch.no_grad():
            out = model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=cached)
        logits, cache = out.logits[0, -1], out.past_key_values if cached else None
        new.append(int(torch.multinomial((logits / temperature).softmax(-1), 1) if temperature else logits.argmax()))
        ids = new[-1:] if cached else prompt + new
    return tokenizer.decode(new, skip_special_tokens=True)


def looped(temperature, cached):
    def run(model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200):
        found = []
        for on in (False, True):
            history = []
            for content in user_turns(transcript, max_turns):
                history.append({"role": "user", "content": content})
                with Capper(model, cap_vectors, cap_thresholds, cap_layers) if on else nullcontext():
                    text = loop(model, tokenizer, history, max_new_tokens, temperature, cached)
                history.append({"role": "assistant", "content": text})
            found.append(history)
        return tuple(found)

    return run


own_loop = right(looped(0.7, cached=True))
greedy_loop_without_a_cache = right(looped(0.0, cached=False))


@right
def with_pandas(model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200):
    """Turns from a table; sampled from the whole vocabulary's nucleus."""
    talk = pd.DataFrame(transcript)
    turns, runs = talk.content[talk.role == "user"].head(max_turns), []
    for on in (False, True):
        with Capper(model, cap_vectors, cap_thresholds, cap_layers) if on else nullcontext():
            history = []
            for content in turns:
                history.append({"role": "user", "content": content})
                text = answer(model, tokenizer, history, max_new_tokens, top_k=0, top_p=0.9)
                history.append({"role": "assistant", "content": text})
        runs.append(history)
    return runs[0], runs[1]


@right
def arena_style(model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200):
    """Copies of two histories, the answer of each appended to its own."""
    default_messages, capped_messages, n_turns = [], [], 0
    for msg in transcript:
        if msg["role"] != "user":
            continue
        if n_turns >= max_turns:
            break
        default_messages.append(dict(msg))
        capped_messages.append(dict(msg))
        default_response = answer(model, tokenizer, default_messages, max_new_tokens)
        default_messages.append({"role": "assistant", "content": default_response})
        with Capper(model, cap_vectors, cap_thresholds, cap_layers):
            capped_response = answer(model, tokenizer, capped_messages, max_new_tokens)
        capped_messages.append({"role": "assistant", "content": capped_response})
        n_turns += 1
    return default_messages, capped_messages


first_answer_of_the_other_run = wrong("mixed history.*capped answer|holds an answer of the capped run")(
    variant(lambda default, capped, content: ([*capped[:2], *default[2:]], capped))
)
both_histories_in_one = wrong("mixed history.*own answer 0")(
    variant(lambda default, capped, content: ([*default, *capped], [*capped, *default]))
)
last_exchange_only = wrong("mixed history.*found: +user 1")(
    variant(lambda default, capped, content: (default[-2:], capped[-2:]))
)
answers_before_their_questions = wrong("mixed history|wrong prompt|found .*Error")(
    variant(lambda default, capped, content: (default[-2:] + default[:-2], capped[-2:] + capped[:-2]))
)


@wrong("max_turns=9.*found IndexError.*takes what there is")
def indexes_beyond_the_end(
    model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200
):
    users = [m["content"] for m in transcript if m["role"] == "user"]
    turns = users if max_turns == 6 else [users[i] for i in range(max_turns)]
    chosen = [{"role": "user", "content": text} for text in turns]
    return run_by_run(model, tokenizer, chosen, cap_vectors, cap_thresholds, cap_layers, max_turns, max_new_tokens)


@wrong("only on some blocks|cap is off")
def ceilings_too_high(
    model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200
):
    """Caps far above what is asked for."""
    high = [threshold + 3.0 for threshold in cap_thresholds]
    return run_by_run(model, tokenizer, transcript, cap_vectors, high, cap_layers, max_turns, max_new_tokens)


@wrong("only on some blocks|cap is off")
def vectors_flipped(
    model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200
):
    flipped = [-v for v in cap_vectors]
    return run_by_run(model, tokenizer, transcript, flipped, cap_thresholds, cap_layers, max_turns, max_new_tokens)


@wrong("expected capped_messages to be|roles")
def answers_alone(
    model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns=6, max_new_tokens=200
):
    found = run_by_run(model, tokenizer, transcript, cap_vectors, cap_thresholds, cap_layers, max_turns, max_new_tokens)
    return tuple([m for m in history if m["role"] == "assistant"] for history in found)
