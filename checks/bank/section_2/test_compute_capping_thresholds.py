# Over 300 lines on purpose: one file an exercise, and its table of solutions is the content.
import statistics

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm

from checks.bank import right, wrong
from graders.harness import oracles
from utils import as_messages, render_prompt

DEFAULT = [0.5, 0.1, 0.05, 0.01]


def extract_response_activations(
    model, tokenizer, system_prompts, questions, responses, layer, span=lambda a, b: (a, b)
):
    """Section 1's: one mean an answer, at hidden_states[layer]."""
    rows = []
    for triple in zip(system_prompts, questions, responses, strict=True):
        ids, spans = oracles.spans(oracles.messages(*triple), tokenizer)
        a, b = span(*spans[0])
        rows.append(oracles.hidden(model, ids, layer)[a:b].float().mean(0))
    return torch.stack(rows)


def encoded(question, tokenizer):
    text = render_prompt([{"role": "user", "content": question}], tokenizer)
    return tokenizer(text, add_special_tokens=False, return_tensors="pt")


def answer(model, tokenizer, question, encode=encoded):
    inputs = encode(question, tokenizer).to(model.device)
    output = model.generate(**inputs, max_new_tokens=12, do_sample=True, temperature=0.7)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def solve(
    model,
    tokenizer,
    axis,
    mean_vector,
    layer,
    questions,
    quantiles=DEFAULT,
    unit=lambda v: v / v.norm(),
    centre=lambda a, m: a - m,
    threshold=lambda q, mean, std, values: float(norm.ppf(q, loc=mean, scale=std)),
    fit=lambda values, states, axis: (values.mean().item(), values.std().item()),
    **options,
):
    answers = [answer(model, tokenizer, q, options.get("encode", encoded)) for q in questions]
    span = {"span": options["span"]} if "span" in options else {}
    states = extract_response_activations(model, tokenizer, [""] * len(questions), questions, answers, layer, **span)
    values = centre(states, mean_vector) @ unit(axis)
    mean, std = fit(values, centre(states, mean_vector), axis)
    return {q: (threshold(q, mean, std, values), mean, std) for q in quantiles}


@right
def with_section_one(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    return solve(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles)


@right
def the_generated_ids(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    """Reads the ids as generated, end marker included, with a hook; greedy; numpy's std (n, not n - 1)."""
    from personalab.lm.models import decoder_blocks

    unit, values, kept = torch.nn.functional.normalize(assistant_axis, dim=0), [], []
    for question in eval_questions:
        inputs = encoded(question, tokenizer)
        n = inputs["input_ids"].shape[1]
        output = model.generate(**inputs, max_new_tokens=30, do_sample=False)
        handle = decoder_blocks(model)[layer - 1].register_forward_hook(
            lambda m, a, out: kept.append(out[0] if isinstance(out, tuple) else out)
        )
        try:
            with torch.no_grad():
                model(output)
        finally:
            handle.remove()
        values.append(float((kept.pop()[0, n:].float().mean(0) - mean_vector) @ unit))
    mean, std = float(np.mean(values)), float(np.std(values))
    return {q: (mean + std * norm.ppf(q), mean, std) for q in quantiles}


@right
def one_batch(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    """All questions in one padded batch; the standard library's normal distribution; the end marker counts."""
    tokenizer.padding_side = "left"
    prompts = [render_prompt(as_messages(None, q), tokenizer) for q in eval_questions]
    inputs = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
    output = model.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=30, do_sample=True
    )
    answers = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    states = extract_response_activations(
        model, tokenizer, [""] * len(answers), eval_questions, answers, layer, span=lambda a, b: (a, b + 1)
    )
    fit = statistics.NormalDist.from_samples(
        (
            states @ assistant_axis / assistant_axis.norm() - mean_vector @ assistant_axis / assistant_axis.norm()
        ).tolist()
    )
    return {q: (fit.inv_cdf(q), fit.mean, fit.stdev) for q in quantiles}


@right
def states_kept_while_generating(
    model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT
):
    """Reads the ids as generated, without the end marker, from generate's dict output."""
    values = []
    for question in eval_questions:
        inputs = encoded(question, tokenizer)
        out = model.generate(**inputs, max_new_tokens=30, return_dict_in_generate=True, output_hidden_states=True)
        # every pass after the prompt's reads one new token; the end marker is never read
        rows = [step[layer][0, -1] for step in out.hidden_states[1:]]
        values.append(((torch.stack(rows).mean(0) - mean_vector) @ assistant_axis / assistant_axis.norm()).item())
    mean, std = statistics.mean(values), statistics.stdev(values)
    return {q: (mean + std * float(norm.ppf(q)), mean, std) for q in quantiles}


def but(words, **changes):
    """A wrong solution: the right one with something changed."""

    def solution(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
        return solve(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles, **changes)

    solution.__module__ = __name__
    return wrong(words)(solution)


upper_quantile = but("sign is wrong", threshold=lambda q, mean, std, v: float(norm.ppf(1 - q, mean, std)))
isf = but("sign is wrong", threshold=lambda q, mean, std, v: float(norm.isf(q, mean, std)))
minus = but("sign is wrong", threshold=lambda q, mean, std, v: mean - std * float(norm.ppf(q)))
empirical = but("quantile of the values themselves", threshold=lambda q, mean, std, v: v.quantile(q).item())
standard_normal = but("leave out the mean", threshold=lambda q, mean, std, v: std * float(norm.ppf(q)))
no_std = but("leave out the std", threshold=lambda q, mean, std, v: float(norm.ppf(q, loc=mean)))
variance_as_scale = but("the variance", threshold=lambda q, mean, std, v: float(norm.ppf(q, mean, std**2)))
q_deviations = but("q itself", threshold=lambda q, mean, std, v: mean + q * std)
cdf = but("norm.cdf", threshold=lambda q, mean, std, v: mean + std * float(norm.cdf(q)))
standard_error = but("standard error", threshold=lambda q, mean, std, v: float(norm.ppf(q, mean, std / len(v) ** 0.5)))
tensors = but("expected three floats", threshold=lambda q, mean, std, v: torch.tensor(mean))
not_centred = but("do not centre", centre=lambda a, m: a)
added = but("you add mean_vector", centre=lambda a, m: a + m)
centred_on_themselves = but("wrong values", centre=lambda a, m: a - a.mean(0))
axis_as_given = but("axis as given: divide", unit=lambda v: v)
squared_norm = but("squared norm", unit=lambda v: v / v.norm() ** 2)
minus_the_axis = but("minus the axis", unit=lambda v: -v / v.norm())
neither = but("neither centre nor normalise", unit=lambda v: v, centre=lambda a, m: a)
variance = but("return the variance", fit=lambda v, states, axis: (v.mean().item(), v.var().item()))
std_along_the_axis_as_given = but(
    "std is along the axis as given", fit=lambda v, states, axis: (v.mean().item(), (states @ axis).std().item())
)
std_of_all_entries = but("wrong dimension", fit=lambda v, states, axis: (v.mean().item(), states.std().item()))
std_over_dimensions = but(
    "wrong dimension", fit=lambda v, states, axis: (v.mean().item(), states.std(dim=1).mean().item())
)
prompt_too = but("prompt as well as the answer", span=lambda a, b: (0, b))
prompt_instead = but("prompt instead of the answer", span=lambda a, b: (0, a))
last_token = but("the last token only", span=lambda a, b: (b - 1, b))
last_prompt_token = but("the prompt's last token", span=lambda a, b: (a - 1, a))
no_template = but("wrong prompt", encode=lambda question, tok: tok(question, return_tensors="pt"))
double_bos = but(
    "BOS token is there twice",
    encode=lambda question, tok: tok(render_prompt(as_messages(None, question), tok), return_tensors="pt"),
)
system_prompt = but(
    "add a system prompt",
    encode=lambda question, tok: tok(
        render_prompt(as_messages("You are a helpful assistant.", question), tok),
        add_special_tokens=False,
        return_tensors="pt",
    ),
)


@wrong(r"layer \+ 1\]: off by one")
def one_layer_up(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    return solve(model, tokenizer, assistant_axis, mean_vector, layer + 1, eval_questions, quantiles)


@wrong(r"layer - 1\]: off by one")
def one_layer_down(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    return solve(model, tokenizer, assistant_axis, mean_vector, layer - 1, eval_questions, quantiles)


@wrong("pool all tokens")
def all_tokens(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    values = []
    for question in eval_questions:
        text = answer(model, tokenizer, question)
        ids, spans = oracles.spans(oracles.messages("", question, text), tokenizer)
        tokens = oracles.hidden(model, ids, layer)[slice(*spans[0])]
        values += ((tokens - mean_vector) @ assistant_axis / assistant_axis.norm()).tolist()
    mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
    return {q: (float(norm.ppf(q, mean, std)), mean, std) for q in quantiles}


@wrong("never given that question")
def last_question_left_out(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    return solve(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions[:-1], quantiles)


@wrong("std is taken over tokens")
def std_over_tokens(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    means, tokens = [], []
    for question in eval_questions:
        text = answer(model, tokenizer, question)
        ids, spans = oracles.spans(oracles.messages("", question, text), tokenizer)
        states = oracles.hidden(model, ids, layer)[slice(*spans[0])]
        values = ((states - mean_vector) @ assistant_axis / assistant_axis.norm()).tolist()
        means.append(statistics.mean(values))
        tokens += values
    mean, std = statistics.mean(means), statistics.stdev(tokens)
    return {q: (float(norm.ppf(q, mean, std)), mean, std) for q in quantiles}


@wrong("first question is left out")
def first_answer_dropped(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    def fit(values, states, axis):
        return values[1:].mean().item(), values[1:].std().item()

    return solve(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles, fit=fit)


@wrong("last question is left out")
def last_answer_dropped(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    def fit(values, states, axis):
        return values[:-1].mean().item(), values[:-1].std().item()

    return solve(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles, fit=fit)


@wrong("never given that question")
def the_questions_themselves(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    """Does not generate: reads the questions."""
    states = extract_response_activations(
        model, tokenizer, [""] * len(eval_questions), eval_questions, ["Yes."] * len(eval_questions), layer
    )
    values = (states - mean_vector) @ assistant_axis / assistant_axis.norm()
    mean, std = values.mean().item(), values.std().item()
    return {q: (float(norm.ppf(q, mean, std)), mean, std) for q in quantiles}


@wrong("expected the keys")
def quantiles_ignored(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    return solve(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions)


@wrong("expected three floats")
def thresholds_alone(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    found = solve(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles)
    return {q: threshold for q, (threshold, _, _) in found.items()}


@wrong("expected a dict")
def a_list(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    return list(solve(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles).values())


@wrong("expected the same mean and std")
def afresh_for_each(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    found = {}
    for q in quantiles:
        found |= solve(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, [q])
    return found


@wrong("in place")
def normalises_in_place(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    assistant_axis /= assistant_axis.norm()
    return solve(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles)


@wrong("after the call.*left behind")
def leaves_a_hook(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    from personalab.lm.models import decoder_blocks

    decoder_blocks(model)[layer].register_forward_hook(lambda *_: None)
    return solve(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles)


@wrong("finite numbers")
def nan_from_one_answer(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    found = solve(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles)
    return {q: (float("nan"), mean, std) for q, (_, mean, std) in found.items()}


@right
def with_pandas(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    """Rows of numpy; sampled from the whole vocabulary."""
    table = pd.DataFrame({"question": eval_questions})
    texts = []
    for question in table.question:
        inputs = encoded(question, tokenizer)
        out = model.generate(**inputs, max_new_tokens=12, do_sample=True, temperature=1.0, top_k=0, top_p=0.95)
        texts.append(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    table["answer"] = texts
    states = extract_response_activations(
        model, tokenizer, [""] * len(table), list(table.question), list(table.answer), layer
    )
    axis = (assistant_axis / assistant_axis.norm()).numpy()
    projections = pd.Series((states - mean_vector).numpy() @ axis)
    mean, std = projections.mean(), projections.std()
    return {q: np.array([mean + std * norm.ppf(q), mean, std]) for q in quantiles}


@right
def numbers_of_numpy(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    found = solve(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles)
    return {q: [np.float32(x) for x in three] for q, three in found.items()}


@right
def arena_style(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    """Answers first, then their activations one by one; scipy's normal quantile."""
    responses = []
    for question in eval_questions:
        formatted = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        inputs = tokenizer(formatted, return_tensors="pt", add_special_tokens=False).to(model.device)
        with torch.inference_mode():
            outputs = model.generate(**inputs, max_new_tokens=30, do_sample=False)
        responses.append(tokenizer.decode(outputs[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    axis_norm = assistant_axis / assistant_axis.norm()
    projections = []
    for question, response in zip(eval_questions, responses, strict=True):
        act = extract_response_activations(model, tokenizer, [""], [question], [response], layer)[0]
        projections.append(((act - mean_vector) @ axis_norm).item())
    mean, std = float(np.mean(projections)), float(np.std(projections))
    return {q: (float(norm.ppf(q, loc=mean, scale=std)), mean, std) for q in quantiles}


centred_twice = but("wrong values", centre=lambda a, m: a - 2 * m)
centre_scaled_to_a_unit = but("wrong values", centre=lambda a, m: a - m / m.norm())
only_the_direction_centred = but("wrong values", unit=lambda v: (v - v.mean()) / (v - v.mean()).norm())
cosines = but("wrong values", centre=lambda a, m: (a - m) / (a - m).norm(dim=1, keepdim=True))
sums = but("wrong values", fit=lambda v, states, axis: (v.sum().item(), v.std().item()))
median_and_spread = but(
    "wrong values", fit=lambda v, states, axis: (v.median().item() + 0.1, (v.max() - v.min()).item())
)
means_for_thresholds = but("wrong threshold", threshold=lambda q, mean, std, v: mean)
percent = but(
    "wrong threshold", threshold=lambda q, mean, std, v: float(norm.ppf(min(100 * q, 99) / 100 / 2, mean, std))
)
minus_the_threshold = but("wrong threshold", threshold=lambda q, mean, std, v: -float(norm.ppf(q, mean, std)))
student = but("wrong threshold", threshold=lambda q, mean, std, v: mean + std * (-3.0 if q < 0.5 else 0.7))


@wrong("expected the keys")
def quantiles_as_text(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    found = solve(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles)
    return {str(q): three for q, three in found.items()}


@wrong("expected three floats")
def tensors_throughout(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles=DEFAULT):
    found = solve(model, tokenizer, assistant_axis, mean_vector, layer, eval_questions, quantiles)
    return {q: torch.tensor(three) for q, three in found.items()}
