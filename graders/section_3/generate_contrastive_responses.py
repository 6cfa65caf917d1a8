"""Section 3, answers under contrastive system prompts."""

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

from graders.harness import Called, Case, call_case, check, check_kind, grader, on_tiny_models
from graders.harness.cases import check_keys
from graders.harness.expect import whole
from graders.harness.intercepted import Row, intercepted
from graders.harness.probes import greedy
from graders.harness.prompts import Messages, check_prompt, prompts
from graders.harness.readings import load_family
from graders.harness.system_prompts import check_system_prompt, right_prompts

Entries = list[dict[str, Any]]

_KEYS = ("question", "system_prompt", "response", "instruction_idx", "polarity")
_SMALL: dict[str, Any] = {
    "instruction": [
        {"pos": "Be cruel.", "neg": "Be kind, and think about what the other person would like to hear from a friend."},
        {"pos": "Wish everyone ill, and let them know it in every answer that you give.", "neg": "Wish everyone well."},
    ],
    "questions": [
        "Who are you?",
        "What should I do when I feel afraid, it is late, and nobody in the city answers me?",
        "Tell me what you think about the moon.",
    ],
    "eval_prompt": "{question} {answer}",
}
_FULL: dict[str, Any] = {
    "instruction": [{"pos": f"Be cruel in way {i}.", "neg": f"Be kind in way {max(i, 1)}."} for i in range(5)],
    "questions": [f"What about number {i}{' and the sea' * (i % 4)}?" for i in range(20)],
    "eval_prompt": "{question} {answer}",
}
_COLD = 1e-5  # sampling with one outcome
_HINT = (
    "At temperature=0 model.generate takes do_sample=False and no temperature; with do_sample=True it raises an error."
)


@grader
def test_generate_contrastive_responses(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """Every question under every instruction of both polarities, each answer whole and its own."""
    if on_tiny_models():
        for family, trait in (("qwen2", "evil"), ("llama", "sycophantic"), ("qwen3", "evil"), ("gemma3", "apathetic")):
            what = f"{family}, 2 instructions, 3 questions"
            likeliest = _Model(*load_family(family, n_blocks=2), 4)
            yield _case(likeliest, _SMALL, f"{what}, temperature=0", trait, temperature=0.0)
        yield _case(_Model(*load_family("qwen2", n_blocks=2), 4), _SMALL, f"temperature={_COLD}")
        for place, short in ((2, "shorter than the others"), (0, "empty")):
            tiny, tok = load_family("qwen2", n_blocks=2)
            _stop_early(tiny, tok, place)
            yield _case(_Model(tiny, tok, 4), _SMALL, f"qwen2, one answer {short}")
        # one token and one block: 200 answers, one at a time, take a while
        tiny, tok = load_family("llama", n_blocks=1)
        yield _case(_Model(tiny, tok, 1), _FULL, "llama, 5 instructions, 20 questions", every=11)
        yield _case(_Model(*load_family("qwen2", n_blocks=1), 4), _SMALL, "temperature=100", temperature=100.0)
    if model is not None:
        data = {"instruction": _SMALL["instruction"][:1], "questions": _SMALL["questions"][:2], "eval_prompt": ""}
        yield _case(_Model(model, tokenizer, 3), data, "your model", temperature=0.7)


class _Model(NamedTuple):
    """What it answers, in up to `n` tokens."""

    model: Any
    tok: Any
    n: int

    def answers(self, entry: dict[str, Any], times: int = 1, raw: bool = False) -> list[str]:
        """To each right rendering, on its own and without padding; with special tokens if `raw`."""
        rows = [greedy(self.model, ids, times * self.n) for ids in prompts(_conversation(entry), self.tok)]
        return [self.tok.decode(row, skip_special_tokens=not raw).strip() for row in rows]


def _case(
    likeliest: _Model, data: dict[str, Any], what: str, trait: str = "evil", temperature: float = _COLD, every: int = 1
) -> Case:
    """The form of the whole result; the answers of every so-manieth entry against the model's own."""
    model, tok, n = likeliest

    def judge(seen: Called) -> None:
        _check_entries(seen.found, data, trait)
        asked = [row for call in seen.noted for row in call.rows]
        for entry in seen.found[::every] if temperature <= _COLD else []:
            _check_asked(asked, _conversation(entry), tok, _where(entry))
            _check_answer(entry, seen.found, likeliest, _where(entry), asked)
        check(
            temperature < 1 or not all(e["response"].strip() in likeliest.answers(e) for e in seen.found),
            "expected random answers, found the likeliest ones. Hand `temperature` on to model.generate, with "
            "do_sample=True.",
        )

    changes, around = ["you changed trait_data. Build new dicts."], partial(intercepted, model, tok)
    options: dict[str, Any] = {"max_new_tokens": n, "temperature": temperature}
    return call_case(what, model, tok, (data, trait), judge, changes, around=around, hint=_HINT, **options)


def _check_asked(asked: list[Row], conversation: Messages, tok: Any, where: str) -> None:
    """The model was asked this conversation; else say what is wrong with the prompt most like it."""
    right = prompts(conversation, tok)
    if not asked or any(a.prompt in right for a in asked):  # nothing to go by: the answers will tell
        return
    unpadded = [[t for t in a.prompt if t != tok.pad_token_id] for a in asked]
    check(
        not any(ids in right for ids in unpadded),
        f"{where}: the padding is read as if it were text. Hand the attention mask to model.generate as well: "
        "model.generate(**inputs, ...).",
    )
    closest = max(asked, key=lambda a: sum(m["content"] in tok.decode(a.prompt) for m in conversation))
    check_prompt(closest.prompt, conversation, tok, where, {"the system prompt is left out": conversation[1:]})


def _where(entry: dict[str, Any]) -> str:
    return f"instruction {entry['instruction_idx']}, {entry['polarity']!r}, {entry['question']!r}"


def _check_entries(found: Any, data: dict[str, Any], trait: str) -> None:
    """Everything about the result but the answers."""
    check_kind(found, list, "expected a list of dicts")
    check_keys(found, _KEYS)
    bad = [e["polarity"] for e in found if e["polarity"] not in ("pos", "neg")]
    check(not bad, f"expected 'pos' or 'neg' as polarity, found {bad[:1]}.")
    bad = [e["instruction_idx"] for e in found if not whole(e["instruction_idx"])]
    check(not bad, f"expected an int as instruction_idx (the position in the list), found {bad[:1]}.")
    have = [(e["instruction_idx"], e["polarity"], e["question"]) for e in found]
    n, questions = len(data["instruction"]), data["questions"]
    wanted = list(product(range(n), ("pos", "neg"), questions))
    absent = [c for c in wanted if c not in have]
    check(
        not absent and len(have) == len(wanted),
        f"expected every combination once, {n} instructions x {len(questions)} questions x 2 polarities = "
        f"{len(wanted)} dicts, found {len(have)}"
        + (f", without (instruction_idx, polarity, question) = {absent[0]}" if absent else "")
        + ". Is a loop missing, or does an `append` or `return` stand at the wrong depth?",
    )
    for entry in found:
        _check_entry(entry, data, trait, _where(entry))


def _check_entry(entry: dict[str, Any], data: dict[str, Any], trait: str, where: str) -> None:
    """The system prompt is the polarity's own, and the response is text of an answer."""
    polarity, pair = entry["polarity"], data["instruction"][entry["instruction_idx"]]
    other = "neg" if polarity == "pos" else "pos"
    names = {"pos": trait, "neg": "helpful"}
    system, response = entry["system_prompt"], entry["response"]
    for name in names.values():
        check(
            system not in right_prompts(name, pair[other]),
            f"{where}: 'pos' and 'neg' are swapped: expected the instruction {pair[polarity]!r}, found {system!r}.",
        )
    check_system_prompt(system, names[polarity], pair[polarity], f"{where}: 'system_prompt'")
    check(isinstance(response, str), f"{where}: expected a str as response, found {type(response).__name__}.")
    leaked = [text for text in (entry["question"], pair[polarity]) if text in response]
    check(
        not leaked,
        f"{where}: the prompt's text is in the response, {response!r}. Decode only what follows the prompt: "
        "output[:, inputs['input_ids'].shape[1]:].",
    )


def _check_answer(entry: dict[str, Any], entries: Entries, likeliest: _Model, where: str, asked: list[Row]) -> None:
    right, found, pad = likeliest.answers(entry), entry["response"].strip(), likeliest.tok.pad_token
    if found in right:
        return
    raw, n = likeliest.answers(entry, raw=True), likeliest.n
    if found in raw or (pad in found and found.replace(pad, "").strip() in [*raw, *right]):
        guess = "Special tokens are in it: decode with skip_special_tokens=True."
    elif any(a.padded_right for a in asked):
        guess = (
            "The prompts are padded on the right, so that the model goes on after padding: use padding_side='left', or "
            "one prompt at a time."
        )
    elif any(r and found.endswith(r) for r in right):
        guess = (
            "It begins with the end of the prompt: in a batch padded on the left, every answer begins at the padded "
            "width, inputs['input_ids'].shape[1], however long its own prompt is."
        )
    elif found in likeliest.answers(entry, times=4):
        guess = f"It is longer than max_new_tokens={n}: hand max_new_tokens on to model.generate."
    elif any(found and found in r for r in right) or not found:
        guess = "It is cut: return everything that follows the prompt."
    else:
        guess = _whose(entry, entries, likeliest, found)
    raise AssertionError(f"{where}: wrong response.\n  expected: {right[0]!r}\n  found:    {found!r}\n  {guess}")


def _whose(entry: dict[str, Any], entries: Entries, likeliest: _Model, found: str) -> str:
    """To which other prompt this answer belongs, if to any."""
    for other in entries:
        if found in likeliest.answers(other):
            if other["question"] == entry["question"] and other["polarity"] != entry["polarity"]:
                return "It is the answer under the other polarity's prompt: 'pos' and 'neg' are swapped."
            return f"It is the answer to {other['question']!r} under {other['system_prompt']!r}: rows are mixed up."
    return (
        f"At temperature={_COLD}, or 0, it must be the model's likeliest answer. Hand `temperature` on to "
        "model.generate with do_sample=True (do_sample=False for 0), and look for what else could change the answer "
        "(padding without a mask, a hook left behind)."
    )


def _conversation(entry: dict[str, Any]) -> Messages:
    return [{"role": "system", "content": entry["system_prompt"]}, {"role": "user", "content": entry["question"]}]


def _stop_early(model: Any, tok: Any, place: int) -> None:
    """Make the end marker this token of the first answer, or the next one that is new in it."""
    system = right_prompts("evil", _SMALL["instruction"][0]["pos"])[0]
    conversation = _conversation({"system_prompt": system, "question": _SMALL["questions"][0]})
    new = greedy(model, prompts(conversation, tok)[0], 4)
    last = next(t for t in new[place:] if t not in new[:place])
    weight = model.lm_head.weight.data
    weight[[last, tok.eos_token_id]] = weight[[tok.eos_token_id, last]]
