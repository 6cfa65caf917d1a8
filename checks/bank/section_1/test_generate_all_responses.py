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
def empty_system_message(personas, questions, max_tokens=256, max_workers=10):
    keys = [(p, i) for p in personas for i in range(len(questions))]
    messages = [
        [{"role": "system", "content": personas[p]}, {"role": "user", "content": questions[i]}] for p, i in keys
    ]
    return dict(zip(keys, utils.generate_responses_parallel(messages, max_workers=max_workers), strict=True))


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
