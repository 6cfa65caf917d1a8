# Over 300 lines on purpose: one file an exercise, and its table of solutions is the content.
import pandas as pd
import torch
import torch.nn.functional as F
from einops import reduce

import utils
from checks.bank import right, wrong
from graders.harness import oracles
from personalab.lm.models import decoder_blocks


@torch.no_grad()
def all_layers(model, tokenizer, systems, questions, responses, first=1, to_the_end=False, pooled=True):
    """Section 3's first exercise: hidden_states of one conversation at a time."""
    rows = []
    for triple in zip(systems, questions, responses, strict=True):
        ids, spans = oracles.spans(oracles.messages(*triple), tokenizer)
        a, b = spans[-1 if to_the_end else 0]
        states = torch.stack(model(torch.tensor([ids]), output_hidden_states=True).hidden_states[first:])[:, 0, a:b]
        rows.append(states.float().mean(1) if pooled else states.float())
    return torch.stack(rows) if pooled else rows


def side(model, tokenizer, pairs, polarity, prompts=None, **options):
    systems = [p[f"{prompts or polarity}_system_prompt"] for p in pairs]
    questions, responses = [p["question"] for p in pairs], [p[f"{polarity}_response"] for p in pairs]
    return all_layers(model, tokenizer, systems, questions, responses, **options)


def solve(model, tokenizer, pairs, change=lambda pos, neg: pos.mean(0) - neg.mean(0), pos=None, neg=None, **options):
    if not pairs:
        raise ValueError("There are no pairs.")
    return change(
        side(model, tokenizer, pairs, "pos", prompts=pos, **options),
        side(model, tokenizer, pairs, "neg", prompts=neg, **options),
    )


@right
def todays_way(model, tokenizer, effective_pairs):
    """Lists first, then two extractions; torch itself stops an empty stack."""
    pos_prompts = [p["pos_system_prompt"] for p in effective_pairs]
    neg_prompts = [p["neg_system_prompt"] for p in effective_pairs]
    questions = [p["question"] for p in effective_pairs]
    pos_responses = [p["pos_response"] for p in effective_pairs]
    neg_responses = [p["neg_response"] for p in effective_pairs]
    pos_acts = all_layers(model, tokenizer, pos_prompts, questions, pos_responses, to_the_end=True)
    neg_acts = all_layers(model, tokenizer, neg_prompts, questions, neg_responses, to_the_end=True)
    pos_mean = pos_acts.mean(dim=0)
    neg_mean = neg_acts.mean(dim=0)
    return pos_mean - neg_mean


@right
def mean_of_differences(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs, lambda pos, neg: (pos - neg).double().mean(0))


@right
def in_one_batch(model, tokenizer, effective_pairs):
    """Raw last block, all answers of both sides in one call."""
    assert effective_pairs, "no pairs"
    n = len(effective_pairs)
    conversations = [
        utils.as_messages(pair[f"{p}_system_prompt"], pair["question"], pair[f"{p}_response"])
        for p in ("pos", "neg")
        for pair in effective_pairs
    ]
    activations = utils.mean_response_activations(model, tokenizer, conversations)
    signs = torch.tensor([1.0] * n + [-1.0] * n)
    return torch.einsum("n,nld->ld", signs, activations) / n


@right
def nested_entries(model, tokenizer, effective_pairs):
    """Pairs that carry both whole answers."""
    means = []
    for p in ("pos", "neg"):
        entries = [pair[p] for pair in effective_pairs]
        fields = ([e[key] for e in entries] for key in ("system_prompt", "question", "response"))
        means.append(all_layers(model, tokenizer, *fields).mean(0))
    return means[0] - means[1]


@wrong("sign is flipped")
def flipped(model, tokenizer, effective_pairs):
    return -solve(model, tokenizer, effective_pairs)


@wrong("reverse order")
def reversed_layers(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs).flip(0)


@wrong("embedding layer is included")
def embedding_included(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs, first=0)


@wrong(r"shifted.*hidden_states\[k \+ 1\]")
def hidden_states_index(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs, first=0)[:-1]


@wrong(r"holds block k \+ 1")
def shifted_up(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs).roll(-1, 0)


@wrong("No effective pairs.*full of NaN")
def nan_from_nothing(model, tokenizer, effective_pairs):
    if not effective_pairs:
        n, d = len(decoder_blocks(model)), model.config.hidden_size
        return torch.empty(0, n, d).mean(0)
    return solve(model, tokenizer, effective_pairs)


@wrong("No effective pairs: expected an error, found tensor")
def zeros_from_nothing(model, tokenizer, effective_pairs):
    if not effective_pairs:
        return torch.zeros(len(decoder_blocks(model)), model.config.hidden_size)
    return solve(model, tokenizer, effective_pairs)


@wrong("No effective pairs: expected an error, found None")
def nothing_from_nothing(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs) if effective_pairs else None


@wrong("unit norm")
def unit_norm(model, tokenizer, effective_pairs):
    return F.normalize(solve(model, tokenizer, effective_pairs), dim=-1)


@wrong("negative answers are missing")
def positive_mean(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs, lambda pos, neg: pos.mean(0))


@wrong("instead of averaging")
def summed(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs, lambda pos, neg: pos.sum(0) - neg.sum(0))


@wrong("divided by the number of all answers")
def divided_by_all(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs, lambda pos, neg: (pos.sum(0) - neg.sum(0)) / (len(pos) + len(neg)))


@wrong("Average over the pairs as well")
def one_a_pair(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs, lambda pos, neg: pos - neg)


@wrong("one row for each block")
def averaged_over_blocks(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs).mean(0)


@wrong("only the first pair counts")
def first_pair(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs[:1])


@wrong("last pair is missing")
def last_pair_lost(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs[:-1])


@wrong("long ones count more")
def token_mean(model, tokenizer, effective_pairs):
    return solve(
        model, tokenizer, effective_pairs, lambda pos, neg: torch.cat(pos, 1).mean(1) - torch.cat(neg, 1).mean(1),
        pooled=False,
    )  # fmt: skip


@wrong("under the positive system prompt")
def positive_prompt_for_both(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs, neg="pos")


@wrong("under the negative system prompt")
def negative_prompt_for_both(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs, pos="neg")


@wrong("have changed places")
def prompts_exchanged(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs, pos="neg", neg="pos")


@wrong("system prompts are left out")
def no_system_prompts(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, [p | {"pos_system_prompt": "", "neg_system_prompt": ""} for p in effective_pairs])


@wrong("carries gradients")
def with_gradients(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs).requires_grad_()


@wrong("changed effective_pairs")
def consumes_the_pairs(model, tokenizer, effective_pairs):
    found = solve(model, tokenizer, effective_pairs)
    effective_pairs.clear()
    return found


@wrong("left behind")
def hook_stays(model, tokenizer, effective_pairs):
    decoder_blocks(model)[0].register_forward_hook(lambda *_: None)
    return solve(model, tokenizer, effective_pairs)


@wrong("expected a torch.Tensor")
def an_array(model, tokenizer, effective_pairs):
    return solve(model, tokenizer, effective_pairs).numpy()


@right
def with_pandas(model, tokenizer, effective_pairs):
    """A long table, a row an answer; its own error where there is none."""
    if len(effective_pairs) == 0:
        raise KeyError("effective_pairs")
    table = pd.concat(
        pd.DataFrame(
            {
                "system": [pair[f"{p}_system_prompt"] for pair in effective_pairs],
                "question": [pair["question"] for pair in effective_pairs],
                "response": [pair[f"{p}_response"] for pair in effective_pairs],
                "sign": sign,
            }
        )
        for p, sign in (("pos", 1.0), ("neg", -1.0))
    )
    found = all_layers(model, tokenizer, table.system, table.question, table.response)
    return torch.tensordot(torch.tensor(table.sign.to_numpy()).float(), found, 1) / len(effective_pairs)


@right
@torch.no_grad()
def by_offsets_and_einops(model, tokenizer, effective_pairs):
    """The answer's tokens by the tokenizer's offsets in the rendered text; thinking never mentioned."""
    if not effective_pairs:
        raise RuntimeError("no pairs")
    total = 0
    for pair in effective_pairs:
        for polarity, sign in (("pos", 1), ("neg", -1)):
            answer = pair[f"{polarity}_response"]
            messages = oracles.messages(pair[f"{polarity}_system_prompt"], pair["question"], answer)
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, return_tensors="pt")
            starts, stops = encoding.pop("offset_mapping")[0].T
            inside = (stops > text.rindex(answer)) & (starts < text.rindex(answer) + len(answer))
            states = torch.cat(model(**encoding, output_hidden_states=True).hidden_states[1:])[:, inside]
            total = total + sign * reduce(states.float(), "L s d -> L d", "mean")
    return total / len(effective_pairs)


@right
def arena_style(model, tokenizer, effective_pairs: list[dict]):
    pos_activations = side(model, tokenizer, effective_pairs, "pos", to_the_end=True)
    neg_activations = side(model, tokenizer, effective_pairs, "neg", to_the_end=True)
    return pos_activations.mean(dim=0) - neg_activations.mean(dim=0)


def but(words, change=None, only=lambda pairs: pairs, **options):
    """A wrong solution: other pairs, or another direction from the two sides."""

    def solution(model, tokenizer, effective_pairs):
        change_now = {} if change is None else {"change": change}
        return solve(model, tokenizer, only(effective_pairs), **change_now, **options)

    solution.__module__ = __name__
    return wrong(words)(solution)


one_pair_a_question = but(
    "each question counts once", only=lambda pairs: list({p["question"]: p for p in pairs}.values())
)
first_pair_of_a_question = but(
    "each question counts once", only=lambda pairs: list({p["question"]: p for p in pairs[::-1]}.values())
)
one_pair_an_instruction = but(
    "wrong values", only=lambda pairs: list({p["instruction_idx"]: p for p in pairs}.values())
)
one_prompt_a_side = but(
    "wrong values",
    only=lambda pairs: [
        p | {f"{s}_system_prompt": pairs[0][f"{s}_system_prompt"] for s in ("pos", "neg")} for p in pairs
    ],
)
first_component = but(
    "wrong values|unit norm",
    lambda pos, neg: torch.linalg.svd((pos - neg).transpose(0, 1), full_matrices=False).Vh[:, 0],
)
medians = but("wrong values", lambda pos, neg: pos.median(0).values - neg.median(0).values)
in_standard_deviations = but(
    "wrong values", lambda pos, neg: (pos.mean(0) - neg.mean(0)) / torch.cat([pos, neg]).std(0)
)
units_first = but("wrong values", lambda pos, neg: F.normalize(pos, dim=-1).mean(0) - F.normalize(neg, dim=-1).mean(0))
weighted_by_score = but(
    "wrong values|last pair|first pair",
    lambda pos, neg: (
        (torch.arange(1.0, len(pos) + 1)[:, None, None] * (pos - neg)).sum(0) / sum(range(1, len(pos) + 1))
    ),
)
answers_exchanged = but(
    "wrong values|sign is flipped|changed places",
    only=lambda pairs: [p | {"pos_response": p["neg_response"], "neg_response": p["pos_response"]} for p in pairs],
)
