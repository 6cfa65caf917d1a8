"""A right pipeline in parts, for its bank."""

import re
from types import SimpleNamespace

import torch

import utils
from personalab.records.steps import load_or_generate, steps_dir


@torch.no_grad()
def generate(model, tokenizer, conversations, max_new_tokens, special=False):
    texts = [utils.render_prompt(c, tokenizer) for c in conversations]
    inputs = tokenizer(texts, add_special_tokens=special, padding=True, padding_side="left", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=True)
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@torch.no_grad()
def own_loop(model, tokenizer, conversations, max_new_tokens, special=False):
    """One conversation after the other, token by token with a cache, by multinomial draws."""
    found = []
    for conversation in conversations:
        ids = tokenizer(utils.render_prompt(conversation, tokenizer), add_special_tokens=special, return_tensors="pt")
        ids, cache, new = ids["input_ids"], None, []
        while len(new) < max_new_tokens and tokenizer.eos_token_id not in new:
            out = model(input_ids=ids, past_key_values=cache, use_cache=True)
            ids, cache = torch.multinomial((out.logits[:, -1].float() / 0.7).softmax(-1), 1), out.past_key_values
            new.append(int(ids))
        found.append(tokenizer.decode(new, skip_special_tokens=True))
    return found


@torch.no_grad()
def own_batches(model, tokenizer, conversations, max_new_tokens, special=False):
    """Rows padded on the left, everything read again at each step."""
    texts = [utils.render_prompt(c, tokenizer) for c in conversations]
    batch = tokenizer(texts, add_special_tokens=special, padding=True, padding_side="left", return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    n, going = ids.shape[1], torch.ones(len(ids), 1, dtype=torch.bool)
    for _ in range(max_new_tokens):
        drawn = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, torch.where(going, drawn, tokenizer.pad_token_id)], dim=1)
        mask = torch.cat([mask, going.long()], dim=1)
        going &= drawn != tokenizer.eos_token_id
    return tokenizer.batch_decode(ids[:, n:], skip_special_tokens=True)


def asked(data, name):
    """One dict for each instruction, polarity and question, without its answer."""
    for i, pair in enumerate(data["instruction"]):
        for polarity, assistant in (("pos", name), ("neg", "helpful")):
            for question in data["questions"]:
                system = f"You are a {assistant} assistant. {pair[polarity]}"
                yield {"question": question, "system_prompt": system, "instruction_idx": i, "polarity": polarity}


def answers(model, tokenizer, data, name, max_new_tokens, batch_size=5, special=False, write=generate):
    rows = list(asked(data, name))
    for i in range(0, len(rows), batch_size):
        conversations = [utils.as_messages(r["system_prompt"], r["question"]) for r in rows[i : i + batch_size]]
        found = write(model, tokenizer, conversations, max_new_tokens, special)
        yield from (r | {"response": a} for r, a in zip(rows[i : i + batch_size], found, strict=True))


def judge(prompt):
    messages = [{"role": "user", "content": prompt}]
    reply = utils.generate_response(messages, model=utils.judge_model(), max_tokens=10, temperature=0)
    number = re.search(r"\d+", reply)
    return int(number[0]) if number else None


def coherence_of(question, response):
    return judge(utils.COHERENCE_PROMPT.format(question=question, answer=response))


def scores(responses, data):
    rubric = data["eval_prompt"]
    trait = [judge(rubric.format(question=r["question"], answer=r["response"])) for r in responses]
    coherence = [coherence_of(r["question"], r["response"]) for r in responses]
    return [r | {"score": t, "coherence": c} for r, t, c in zip(responses, trait, coherence, strict=True)]


def both_coherent(pos, neg):
    return min(pos or 0, neg or 0) >= 50


def effective(scored, sides=("pos", "neg"), coherent=both_coherent, shown=lambda score, side: score):
    """(positive, negative) answers to one question under one instruction, by the scores of `sides`."""
    found = {(r["instruction_idx"], r["question"], r["polarity"]): r for r in scored}
    pairs = [(r, found.get((i, q, "neg"))) for (i, q, p), r in found.items() if p == "pos"]

    def works(response):
        score = shown(response["score"], response["polarity"])
        return score is not None and (score >= 50 if response["polarity"] == "pos" else score < 50)

    return [
        both
        for both in pairs
        if all(both)
        and all(works(r) for r in both if r["polarity"] in sides)
        and coherent(*(r.get("coherence") for r in both))
    ]


def vectors_of(model, tokenizer, pairs):
    if not pairs:
        raise ValueError("no effective pairs")

    def mean(side):
        chats = [utils.as_messages(p[side]["system_prompt"], p[side]["question"], p[side]["response"]) for p in pairs]
        return utils.mean_response_activations(model, tokenizer, chats).mean(0)

    return mean(0) - mean(1)


def steer(model, tokenizer, questions, vector, rubric, layer, coefficients, max_new_tokens, write=generate, system=""):
    results = []
    for coefficient in [-3.0, -1.0, 0.0, 1.0, 3.0, 5.0] if coefficients is None else coefficients:
        with utils.applied(model, [utils.Steer(layer, vector, coefficient)]):
            found = write(model, tokenizer, [utils.as_messages(system, q) for q in questions], max_new_tokens)
        for question, response in zip(questions, found, strict=True):
            score = judge(rubric.format(question=question, answer=response))
            results.append({"coefficient": coefficient, "question": question, "response": response, "score": score})
    return results


STEPS = SimpleNamespace(
    answers=lambda *args: list(answers(*args)),
    scores=scores,
    effective=effective,
    vectors=vectors_of,
    questions=lambda data: data.get("eval_questions", data["questions"]),  # for steering
    steer=steer,
    folder=lambda name: steps_dir(name),
    cached=load_or_generate,
    uncached=(),
    kept=(),  # steps whose files override does not delete
    overridden=False,  # they are made again when their turn comes
    returned=lambda vectors, results: (vectors, results),
)


def pipeline(
    model, tokenizer, trait_name, trait_data, layer=19, steering_coefficients=None, max_new_tokens=256,
    override=False, **changes,
):  # fmt: skip
    """The pipeline, with some steps exchanged."""
    s = SimpleNamespace(**vars(STEPS) | changes)
    folder = s.folder(trait_name)
    for old in folder.iterdir() if override else ():
        if old.stem not in s.kept:
            old.unlink()

    def step(name, make):
        if name.split(".")[0] in s.uncached:
            return make()
        return s.cached(
            folder / name, make, name, override=override and (s.overridden or name.split(".")[0] not in s.kept)
        )

    answers = step("answers.json", lambda: s.answers(model, tokenizer, trait_data, trait_name, max_new_tokens))
    scored = step("scores.json", lambda: s.scores(answers, trait_data))
    vectors = step("vectors.safetensors", lambda: s.vectors(model, tokenizer, s.effective(scored)))
    results = step(
        "steering.json",
        lambda: s.steer(
            model, tokenizer, s.questions(trait_data), vectors[layer], trait_data["eval_prompt"], layer,
            steering_coefficients, max_new_tokens,
        ),
    )  # fmt: skip
    return s.returned(vectors, results)
