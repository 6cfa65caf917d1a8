import itertools

import pandas as pd

import utils
from checks.bank import right, wrong
from personalab.endpoint import BatchError


def conversation(system, question):
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": question}]


@right
def comprehension(personas, questions, max_tokens=256, max_workers=10):
    keys = [(p, i) for p in personas for i in range(len(questions))]
    texts = utils.generate_responses_parallel(
        [conversation(personas[p], questions[i]) for p, i in keys], max_tokens=max_tokens, max_workers=max_workers
    )
    return {key: text for key, text in zip(keys, texts, strict=True)}


@right
def system_prompt_in_the_user_turn(personas, questions, max_tokens=256, max_workers=10):
    keys, messages = [], []
    for name, system in personas.items():
        for i, question in enumerate(questions):
            keys.append((name, i))
            messages.append([{"role": "user", "content": f"{system}\n\n{question}" if system else question}])
    texts = utils.generate_responses_parallel(messages, max_tokens=max_tokens, max_workers=max_workers)
    return dict(zip(keys, texts, strict=True))


@wrong("another order")
def questions_outer(personas, questions, max_tokens=256, max_workers=10):
    found = comprehension(personas, questions, max_tokens, max_workers)
    return {(p, i): found[p, i] for i in range(len(questions)) for p in personas}


@wrong("another order")
def sorted_keys(personas, questions, max_tokens=256, max_workers=10):
    return dict(sorted(comprehension(personas, questions, max_tokens, max_workers).items()))


@wrong("one after another")
def sequential(personas, questions, max_tokens=256, max_workers=10):
    return {
        (p, i): utils.generate_response(conversation(personas[p], q), max_tokens=max_tokens)
        for p in personas
        for i, q in enumerate(questions)
    }


@wrong("was it dropped")
def no_system_prompt(personas, questions, max_tokens=256, max_workers=10):
    return comprehension(dict.fromkeys(personas, ""), questions, max_tokens, max_workers)


@right
def with_a_table(personas, questions, max_tokens=256, max_workers=10):
    """A row for each pair; the temperature stays at its default."""
    pairs = itertools.product(personas.items(), enumerate(questions))
    table = pd.DataFrame([(p, system, i, q) for (p, system), (i, q) in pairs], columns=["p", "system", "i", "q"])
    messages = [conversation(row.system, row.q) for row in table.itertuples()]
    table["text"] = utils.generate_responses_parallel(messages, max_workers=max_workers, max_tokens=max_tokens)
    return {(row.p, row.i): row.text for row in table.itertuples()}


@right
def retries_by_hand(personas, questions, max_tokens=256, max_workers=10):
    """Asks a second time where calls failed (what succeeded is cached), and then lets the error through."""
    keys = [(p, i) for p in personas for i in range(len(questions))]
    asked = [conversation(personas[p], questions[i]) for p, i in keys]
    options = {"max_tokens": max_tokens, "max_workers": max_workers, "temperature": 0.7}
    try:
        texts = utils.generate_responses_parallel(asked, **options)
    except BatchError:
        texts = utils.generate_responses_parallel(asked, **options)
    return dict(zip(keys, texts, strict=True))


@wrong("where a prompt is empty, leave the system message out")
def arena_style(personas, questions, max_tokens=256, max_workers=10):
    """A system message always, an empty one for the default persona."""
    messages_list, keys = [], []
    for persona_name, system_prompt in personas.items():
        for q_idx, question in enumerate(questions):
            messages_list.append([{"role": "system", "content": system_prompt}, {"role": "user", "content": question}])
            keys.append((persona_name, q_idx))
    responses = utils.generate_responses_parallel(messages_list, max_tokens=max_tokens, max_workers=max_workers)
    return dict(zip(keys, responses, strict=True))


def sent(words, **changes):
    """A wrong solution that hands on something else."""

    def solution(personas, questions, max_tokens=256, max_workers=10):
        keys = [(p, i) for p in personas for i in range(len(questions))]
        options = {"max_tokens": max_tokens, "max_workers": max_workers} | changes
        asked = [conversation(personas[p], questions[i]) for p, i in keys]
        return dict(zip(keys, utils.generate_responses_parallel(asked, **options), strict=True))

    solution.__module__ = __name__
    return wrong(words)(solution)


max_tokens_ignored = sent("expected every call with max_tokens=7", max_tokens=256)
max_workers_ignored = sent("in flight at once, of max_workers=3", max_workers=10)
one_worker = sent("one after another", max_workers=1)
greedy = sent("expected every call with temperature=0.7", temperature=0.0)


@wrong("expected the model under study")
def asks_the_judge(personas, questions, max_tokens=256, max_workers=10):
    keys = [(p, i) for p in personas for i in range(len(questions))]
    asked = [conversation(personas[p], questions[i]) for p, i in keys]
    options = {"model": utils.judge_model(), "max_tokens": max_tokens, "max_workers": max_workers}
    return dict(zip(keys, utils.generate_responses_parallel(asked, **options), strict=True))


@wrong("was asked with the system prompt")
def the_last_persona_for_all(personas, questions, max_tokens=256, max_workers=10):
    *_, last = personas.values()
    return comprehension(dict.fromkeys(personas, last), questions, max_tokens, max_workers)


@wrong("expected 9 calls.*found 18")
def asks_twice(personas, questions, max_tokens=256, max_workers=10):
    comprehension(personas, questions, max_tokens, max_workers)
    return comprehension(personas, questions, max_tokens, max_workers)


@wrong("expected a text, found list")
def lists_of_one(personas, questions, max_tokens=256, max_workers=10):
    return {key: [text] for key, text in comprehension(personas, questions, max_tokens, max_workers).items()}


@wrong("wrong keys")
def failed_ones_left_out(personas, questions, max_tokens=256, max_workers=10):
    return {key: text for key, text in comprehension(personas, questions, max_tokens, max_workers).items() if key[1]}


@wrong("your function raised RuntimeError|Let generate_responses_parallel finish")
def another_error(personas, questions, max_tokens=256, max_workers=10):
    try:
        return comprehension(personas, questions, max_tokens, max_workers)
    except BatchError:
        pass
    raise RuntimeError("some calls failed")


@wrong("belongs to another question")
def keys_and_texts_misaligned(personas, questions, max_tokens=256, max_workers=10):
    found = comprehension(personas, questions, max_tokens, max_workers)
    values = list(found.values())
    return dict(zip(found, values[1:] + values[:1], strict=True))


@wrong("must not become an empty answer")
def failures_become_empty(personas, questions, max_tokens=256, max_workers=10):
    keys = [(p, i) for p in personas for i in range(len(questions))]
    try:
        return comprehension(personas, questions, max_tokens, max_workers)
    except BatchError as error:
        return {key: text or "" for key, text in zip(keys, error.results, strict=True)}


@wrong("must not lose the rest|Let generate_responses_parallel finish|covers")
def one_call_a_persona(personas, questions, max_tokens=256, max_workers=10):
    found = {}
    for p in personas:
        texts = utils.generate_responses_parallel(
            [conversation(personas[p], q) for q in questions], max_tokens=max_tokens, max_workers=max_workers
        )
        found |= {(p, i): text for i, text in enumerate(texts)}
    return found


@wrong("wrong keys")
def keyed_by_question(personas, questions, max_tokens=256, max_workers=10):
    return {
        (p, questions[i]): text for (p, i), text in comprehension(personas, questions, max_tokens, max_workers).items()
    }
