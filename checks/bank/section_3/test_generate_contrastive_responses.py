# Over 300 lines on purpose: one file an exercise, and its table of solutions is the content.
import torch

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


@right
def one_at_a_time(model, tokenizer, trait_data, trait_name, max_new_tokens=256, temperature=0.7):
    """In the way of today's course: no padding, thinking left on, special tokens as the tokenizer likes."""
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
