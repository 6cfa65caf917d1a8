# Over 300 lines on purpose: one file an exercise, and its table of solutions is the content.
import itertools

import numpy as np
import pandas as pd
import torch
from transformers import GenerationConfig

from checks.bank import right, wrong
from personalab.lm.generation import Request, generate
from utils import render_prompt


def system_prompt_of(name, instruction):
    return f"You are a {name} assistant. {instruction}"


def conversation_of(system, question):
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


@torch.inference_mode()
def batched(
    model, tokenizer, systems, questions, n, temperature,
    side="left", mask=True, skip=True, conversation=conversation_of,
    rows=lambda output, inputs: output[:, inputs["input_ids"].shape[1] :],
):  # fmt: skip
    """Answers to all conversations in one batch."""
    prompts = [render_prompt(conversation(*pair), tokenizer) for pair in zip(systems, questions, strict=True)]
    inputs = tokenizer(prompts, add_special_tokens=False, padding=True, padding_side=side, return_tensors="pt")
    given = dict(inputs) if mask else {"input_ids": inputs["input_ids"]}
    if mask == "ones":
        given["attention_mask"] = torch.ones_like(inputs["input_ids"])
    options = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    output = model.generate(**given, max_new_tokens=n, pad_token_id=tokenizer.pad_token_id, **options)
    return [tokenizer.decode(row, skip_special_tokens=skip) for row in rows(output, inputs)]


def solve(
    model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7,
    names=None, keys=("pos", "neg"), change=lambda entries: entries, **options,
):  # fmt: skip
    """All answers in one batch."""
    names = names or {"pos": trait_name, "neg": "helpful"}
    entries = [
        {
            "question": question,
            "system_prompt": system_prompt_of(names[polarity], pair[key]),
            "instruction_idx": i,
            "polarity": polarity,
        }
        for i, pair in enumerate(trait_data["instruction"])
        for polarity, key in zip(("pos", "neg"), keys, strict=True)
        for question in trait_data["questions"]
    ]
    systems, questions = [e["system_prompt"] for e in entries], [e["question"] for e in entries]
    texts = batched(model, tokenizer, systems, questions, max_new_tokens, temperature, **options)
    for entry, text in zip(entries, texts, strict=True):
        entry["response"] = text
    return change(entries)


@right
def one_batch(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature)


@wrong(r"temperature=0: expected a result, found ValueError.*takes do_sample=False")
def arena_style(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    """Samples at temperature 0 too (one at a time, thinking left on)."""
    results = []
    for inst_idx, inst_pair in enumerate(trait_data["instruction"]):
        for polarity in ["pos", "neg"]:
            name = trait_name if polarity == "pos" else "helpful"
            system_prompt = system_prompt_of(name, inst_pair[polarity])
            for question in trait_data["questions"]:
                prompt = tokenizer.apply_chat_template(
                    conversation_of(system_prompt, question), tokenize=False, add_generation_prompt=True
                )
                inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
                with torch.inference_mode():
                    output_ids = model.generate(
                        **inputs,
                        max_new_tokens=max_new_tokens,
                        temperature=temperature,
                        do_sample=True,
                        pad_token_id=tokenizer.eos_token_id,
                    )
                response = tokenizer.decode(output_ids[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
                results.append(
                    {
                        "question": question,
                        "system_prompt": system_prompt,
                        "response": response,
                        "instruction_idx": inst_idx,
                        "polarity": polarity,
                    }
                )
    return results


@right
def with_the_engine(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    """Questions outermost, "an" before a vowel, an additional key."""
    entries = []
    for question in trait_data["questions"]:
        for i, pair in enumerate(trait_data["instruction"]):
            article = "an" if trait_name[0] in "aeiou" else "a"
            systems = {
                "neg": f"You are a helpful assistant. {pair['neg']}",
                "pos": f"You are {article} {trait_name} assistant. {pair['pos']}",
            }
            for polarity, system in systems.items():
                entries.append(
                    dict(question=question, system_prompt=system, instruction_idx=i, polarity=polarity, score=None)
                )
    requests = [
        Request(conversation_of(e["system_prompt"], e["question"]), max_new_tokens, temperature, seed)
        for seed, e in enumerate(entries)
    ]
    for entry, completion in zip(entries, generate(model, tokenizer, requests), strict=True):
        entry["response"] = completion.text
    return entries


@wrong("'pos' and 'neg' are swapped: expected the instruction")
def instructions_swapped(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return solve(
        model, tokenizer, trait_data, trait_name, max_new_tokens, temperature,
        keys=("neg", "pos"), names={"neg": trait_name, "pos": "helpful"},
    )  # fmt: skip


@wrong("'pos' and 'neg' are swapped: expected the instruction")
def instructions_swapped_but_not_the_names(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature):
    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature, keys=("neg", "pos"))


@wrong("name before 'assistant' is another one")
def names_swapped(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    names = {"pos": "helpful", "neg": trait_name}
    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature, names=names)


@wrong("name before 'assistant' is another one")
def the_trait_in_both(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    names = {"pos": trait_name, "neg": trait_name}
    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature, names=names)


@wrong("other polarity's prompt")
def responses_swapped(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    def swap(entries):
        texts = {(e["instruction_idx"], e["polarity"], e["question"]): e["response"] for e in entries}
        other = {"pos": "neg", "neg": "pos"}
        return [e | {"response": texts[e["instruction_idx"], other[e["polarity"]], e["question"]]} for e in entries]

    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature, change=swap)


@wrong("rows are mixed up")
def rows_rotated(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    def rotate(entries):
        return [e | {"response": entries[i - 1]["response"]} for i, e in enumerate(entries)]

    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature, change=rotate)


@wrong("2 instructions x 3 questions x 2 polarities = 12")
def positive_only(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return solve(
        model, tokenizer, trait_data, trait_name, max_new_tokens, temperature,
        change=lambda entries: [e for e in entries if e["polarity"] == "pos"],
    )  # fmt: skip


@wrong("every combination once.*wrong depth")
def first_instruction_only(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return solve(
        model, tokenizer, trait_data, trait_name, max_new_tokens, temperature,
        change=lambda entries: [e for e in entries if e["instruction_idx"] == 0],
    )  # fmt: skip


@wrong("every combination once")
def paired_with_the_instructions(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    """Question i under instruction i only."""
    return solve(
        model, tokenizer, trait_data, trait_name, max_new_tokens, temperature,
        change=lambda es: [e for e in es if trait_data["questions"].index(e["question"]) == e["instruction_idx"]],
    )  # fmt: skip


@wrong("every combination once")
def twice(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature, change=lambda e: e + e)


@wrong("5 instructions x 20 questions x 2 polarities = 200 dicts, found 60")
def the_first_six_questions(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    data = trait_data | {"questions": trait_data["questions"][:6]}
    return solve(model, tokenizer, data, trait_name, max_new_tokens, temperature)


@wrong("prompt's text is in the response")
def prompt_in_the_response(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature, rows=lambda out, _: out)


@wrong("begins with the end of the prompt")
def cut_at_its_own_length(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    def rows(output, inputs):
        lengths = inputs["attention_mask"].sum(1).tolist()
        width = inputs["input_ids"].shape[1]
        return [row[max(n, width - 2) :] for row, n in zip(output, lengths, strict=True)]

    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature, rows=rows)


@wrong("prompt's text is in the response|begins with the end of the prompt|cut")
def cut_at_its_own_length_wholly(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    def rows(output, inputs):
        return [row[n:] for row, n in zip(output, inputs["attention_mask"].sum(1).tolist(), strict=True)]

    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature, rows=rows)


@wrong("padded on the right")
def padded_on_the_right(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature, side="right")


@wrong("padding is read as if it were text")
def padding_read(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature, mask="ones")


@right
def mask_left_to_transformers(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature, mask=False)


@wrong("It is cut")
def first_token_lost(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return solve(
        model, tokenizer, trait_data, trait_name, max_new_tokens, temperature,
        rows=lambda output, inputs: output[:, inputs["input_ids"].shape[1] + 1 :],
    )  # fmt: skip


@wrong("It is cut")
def one_token_short(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens - 2, temperature)


@wrong("longer than max_new_tokens")
def max_new_tokens_ignored(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return solve(model, tokenizer, trait_data, trait_name, 4 * max_new_tokens, temperature)


@wrong("Special tokens are in it")
def special_tokens_kept(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature, skip=False)


@wrong("Hand `temperature` on")
def temperature_ignored(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens, 3.0)


@wrong("expected random answers")
def always_greedy(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens, 0)


@wrong("system prompt is left out")
def no_system_prompt(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return solve(
        model, tokenizer, trait_data, trait_name, max_new_tokens, temperature,
        conversation=lambda system, question: [{"role": "user", "content": question}],
    )  # fmt: skip


@wrong("wrong prompt")
def everything_in_the_user_turn(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return solve(
        model, tokenizer, trait_data, trait_name, max_new_tokens, temperature,
        conversation=lambda system, question: [{"role": "user", "content": f"{system}\n\n{question}"}],
    )  # fmt: skip


@wrong(r"keys.*\['instruction_idx'\] missing")
def a_key_missing(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    def drop(entries):
        return [{k: v for k, v in e.items() if k != "instruction_idx"} for e in entries]

    return solve(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature, change=drop)


@wrong("expected 'pos' or 'neg'")
def other_polarities(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    names = {"pos": "positive", "neg": "negative"}
    return solve(
        model, tokenizer, trait_data, trait_name, max_new_tokens, temperature,
        change=lambda entries: [e | {"polarity": names[e["polarity"]]} for e in entries],
    )  # fmt: skip


@wrong("expected a list of dicts")
def by_polarity(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    return {"pos": one_batch(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature), "neg": []}


@wrong("you changed trait_data")
def changes_its_input(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    found = one_batch(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature)
    trait_data["questions"].clear()
    return found


@right
@torch.inference_mode()
def loop_by_hand(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    """Without `generate`: one pass a token, sampled by numpy; an answer ends before the end marker."""
    stop, rng, entries = model.generation_config.eos_token_id, np.random.default_rng(0), []
    stops = set(stop if isinstance(stop, list) else [stop])
    for i, pair in enumerate(trait_data["instruction"]):
        for polarity, question in itertools.product(("neg", "pos"), trait_data["questions"]):
            system = system_prompt_of(trait_name if polarity == "pos" else "helpful", pair[polarity])
            text = render_prompt(conversation_of(system, question), tokenizer)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            n = len(ids)
            while len(ids) < n + max_new_tokens:
                logits = model(torch.tensor([ids], device=model.device)).logits[0, -1].double().cpu().numpy()
                if temperature:
                    logits = logits / temperature + rng.gumbel(size=len(logits))
                if (token := int(logits.argmax())) in stops:
                    break
                ids.append(token)
            entries.append(
                {
                    "question": question,
                    "system_prompt": system,
                    "response": tokenizer.decode(ids[n:], skip_special_tokens=True),
                    "instruction_idx": i,
                    "polarity": polarity,
                }
            )
    return entries


@right
@torch.inference_mode()
def with_pandas_and_a_config(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    """A row a prompt, batched by instruction; its own configuration with top_k=0 and top_p."""
    pairs = pd.DataFrame(trait_data["instruction"]).rename_axis("instruction_idx").reset_index()
    table = pairs.melt("instruction_idx", ["pos", "neg"], "polarity", "text").merge(
        pd.DataFrame({"question": trait_data["questions"]}), how="cross"
    )
    names = table.polarity.map({"pos": trait_name, "neg": "helpful"})
    table["system_prompt"] = "You are a " + names + " assistant. " + table.text
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 0.95} if temperature else {}
    config = GenerationConfig(
        **{"do_sample": False} | sampling,
        max_new_tokens=max_new_tokens,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    tokenizer.padding_side = "left"
    for _, rows in table.groupby(["instruction_idx", "polarity"]):
        prompts = [
            render_prompt(conversation_of(*row), tokenizer)
            for row in zip(rows.system_prompt, rows.question, strict=True)
        ]
        inputs = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt").to(model.device)
        output = model.generate(**inputs, generation_config=config)
        texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        table.loc[rows.index, "response"] = texts
    records = table.drop(columns="text").to_dict("records")
    return [row | {"instruction_idx": np.int64(row["instruction_idx"])} for row in records]


def but(words, **changes):
    """A wrong solution: entries changed, or other arguments handed on."""

    def solution(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
        given = {"max_new_tokens": max_new_tokens, "temperature": temperature}
        given |= {name: change(given[name]) for name, change in changes.items() if name in given}
        others = {name: value for name, value in changes.items() if name not in given}
        return solve(model, tokenizer, trait_data, trait_name, **given, **others)

    solution.__module__ = __name__
    return wrong(words)(solution)


zero_means_default = but("likeliest answer|hand", temperature=lambda t: t or 0.7)
empty_answers_dropped = but(
    "one answer empty.*every combination once", change=lambda es: [e for e in es if e["response"]]
)
empty_answers_filled = but(
    "one answer empty.*wrong response", change=lambda es: [e | {"response": e["response"] or "(no answer)"} for e in es]
)
first_word = but("It is cut", change=lambda es: [e | {"response": e["response"].split(" ")[0]} for e in es])
lower_case = but("wrong response", change=lambda es: [e | {"response": e["response"].swapcase()} for e in es])
counted_from_one = but(
    "swapped|instruction|every combination",
    change=lambda es: [e | {"instruction_idx": e["instruction_idx"] + 1} for e in es],
)
numbers_as_text = but(
    "expected an int", change=lambda es: [e | {"instruction_idx": str(e["instruction_idx"])} for e in es]
)
instruction_alone = but(
    "prefix is missing|instruction",
    change=lambda es: [e | {"system_prompt": e["system_prompt"].partition(". ")[2]} for e in es],
)


@wrong("every combination once")
def by_text_of_the_prompt(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    """Looks up the instruction by its text, and keeps one answer a prompt: two instructions may share a side."""
    found = {
        (e["system_prompt"], e["question"]): e
        for e in solve(model, tokenizer, trait_data, trait_name, max_new_tokens, temperature)
    }
    return list(found.values())
