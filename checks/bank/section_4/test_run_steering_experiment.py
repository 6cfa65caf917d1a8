from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch

import utils
from checks.bank import right, wrong
from checks.bank.section_4.steerer_parts import Base
from checks.bank.section_4.test_generate_with_steerer import as_in_the_chapter, at_all_positions

DEFAULTS = (-3, -1, 0, 1, 3, 5)


def number(reply):
    return int(reply) if reply.strip().isdigit() else None


def messages_for(question, answer, template):
    return [{"role": "user", "content": template.format(question=question, answer=answer)}]


def asked(messages, model=None):
    return utils.generate_response(messages, model=model or utils.judge_model(), max_tokens=10, temperature=0.0)


def score(question, answer, template):
    return number(asked(messages_for(question, answer, template)))


def row(coefficient, question, response, points):
    return {"coefficient": coefficient, "question": question, "response": response, "score": points}


def sweep(model, tokenizer, questions, vector, template, layer, coefficients, max_new_tokens, **parts):
    """The loops, in parts that wrong solutions replace."""
    answer = parts.get("answer", at_all_positions)
    judge, note = parts.get("judge", score), parts.get("note", row)
    rows = []
    for c in DEFAULTS if coefficients is None else coefficients:
        for q in questions:
            response = answer(model, tokenizer, q, vector, layer, c, max_new_tokens=max_new_tokens)
            rows.append(note(c, q, response, judge(q, response, template)))
    return rows


@right
def in_loops(
    model, tokenizer, questions, steering_vector, eval_prompt_template, layer=19, coefficients=None, max_new_tokens=256
):
    return sweep(
        model, tokenizer, questions, steering_vector, eval_prompt_template, layer, coefficients, max_new_tokens
    )


@right
def as_in_the_chapter_with_threads(
    model, tokenizer, questions, steering_vector, eval_prompt_template, layer=19, coefficients=None, max_new_tokens=256
):
    """ARENA 4.4's way: all answers first, then the judge in threads, filling in the rows."""
    if coefficients is None:
        coefficients = [-3.0, -1.0, 0.0, 1.0, 3.0, 5.0]
    results = []
    for coeff in coefficients:
        for question in questions:
            response = as_in_the_chapter(
                model, tokenizer, question, steering_vector, layer, coeff, max_new_tokens=max_new_tokens
            )
            results.append({"coefficient": coeff, "question": question, "response": response})

    def score_one(result):
        result["score"] = score(result["question"], result["response"], eval_prompt_template)

    with ThreadPoolExecutor(max_workers=10) as executor:
        list(executor.map(score_one, results))
    return results


@right
def as_one_batch(
    model, tokenizer, questions, steering_vector, eval_prompt_template, layer=19, coefficients=None, max_new_tokens=256
):
    """The engine: the whole sweep decodes as one batch, question by question, and is scored as one."""
    from personalab.lm.generation import Request, generate
    from utils import Steer, as_messages

    coefficients = [-3.0, -1.0, 0.0, 1.0, 3.0, 5.0] if coefficients is None else coefficients
    grid = [(q, c) for q in questions for c in coefficients]
    requests = [Request(as_messages(None, q), max_new_tokens) for q, _ in grid]
    steer = Steer(layer, steering_vector, torch.tensor([c for _, c in grid]))
    answers = [c.text for c in generate(model, tokenizer, requests, interventions=[steer])]
    conversations = [messages_for(q, a, eval_prompt_template) for (q, _), a in zip(grid, answers, strict=True)]
    replies = utils.generate_responses_parallel(conversations, model=utils.judge_model(), progress=False)
    return [
        row(c, q, a, number(reply)) | {"layer": layer} for (q, c), a, reply in zip(grid, answers, replies, strict=True)
    ]


@right
def as_a_table(
    model, tokenizer, questions, steering_vector, eval_prompt_template, layer=19, coefficients=None, max_new_tokens=256
):
    """pandas: the grid as a product, a column at a time; scores as numpy's integers, None kept in an object column."""
    coefficients = list(DEFAULTS) if coefficients is None else coefficients
    index = pd.MultiIndex.from_product([coefficients, questions], names=["coefficient", "question"])
    table = index.to_frame(index=False).astype(object)
    table["response"] = [
        at_all_positions(model, tokenizer, q, steering_vector, layer, c, max_new_tokens)
        for c, q in table[["coefficient", "question"]].itertuples(index=False)
    ]
    points = [score(q, a, eval_prompt_template) for q, a in zip(table.question, table.response, strict=True)]
    table["score"] = pd.Series([None if p is None else np.int64(p) for p in points], dtype=object)
    return table.to_dict("records")


@right
def by_index(
    model, tokenizer, questions, steering_vector, eval_prompt_template, layer=19, coefficients=None, max_new_tokens=256
):
    """numpy: a table filled question by question, and read out at the end."""
    grid = np.array(DEFAULTS if coefficients is None else coefficients, dtype=float)
    texts = np.empty((len(grid), len(questions)), dtype=object)
    for j, i in np.ndindex(texts.T.shape):
        texts[i, j] = at_all_positions(
            model, tokenizer, questions[j], steering_vector, layer, grid[i], max_new_tokens=max_new_tokens
        )
    return [
        row(grid[i], questions[j], text, score(questions[j], text, eval_prompt_template))
        for (i, j), text in np.ndenumerate(texts)
    ]


def none_where_it_fails(question, answer, template):
    try:
        return score(question, answer, template)
    except Exception:
        return None


def replacing(words, **parts):
    """A wrong solution with other parts of the loops."""

    def solution(model, tok, questions, vector, template, layer=19, coefficients=None, max_new_tokens=256):
        return sweep(model, tok, questions, vector, template, layer, coefficients, max_new_tokens, **parts)

    solution.__module__ = __name__
    return wrong(words)(solution)


def steered(push=lambda v, c: c * v, shift=0, tokens=None):
    """An answer under another vector, at another block, or of another length."""

    def answer(model, tokenizer, question, vector, layer, coefficient, max_new_tokens):
        vector, layer = push(vector, coefficient), layer + shift
        return at_all_positions(model, tokenizer, question, vector, layer, 1.0, max_new_tokens=tokens or max_new_tokens)

    return answer


asks_the_model_under_study = replacing(
    "no judge.*judge_model",
    judge=lambda q, a, t: number(utils.generate_response(messages_for(q, a, t), max_tokens=10, temperature=0.0)),
)
judge_sees_the_beginning = replacing("no score that the judge gave", judge=lambda q, a, t: score(q, a[:8], t))
not_a_number = replacing(
    "'score' to be an int or None, found nan", judge=lambda q, a, t: float("nan") if score(q, a, t) is None else 1
)
sizes_of_coefficients = replacing("sign is wrong|add up", answer=steered(lambda v, c: abs(c) * v))
beginnings_kept = replacing("no score that the judge gave", note=lambda c, q, a, s: row(c, q, a[:8], s))
tokens_for_text = replacing("'response' to be a str", note=lambda c, q, a, s: row(c, q, a.split(), s))
coefficient_of_the_step = replacing("missing", note=lambda c, q, a, s: row(2 * c, q, a, s))
never_steered = replacing("not steered", answer=steered(lambda v, c: 0 * v))
sign = replacing("sign is wrong", answer=steered(lambda v, c: -c * v))
normalised = replacing("normalised", answer=steered(lambda v, c: c * v / v.norm()))
vector_scaled_in_place = replacing("in place.*leaks", answer=steered(lambda v, c: v.mul_(c)))
block_up = replacing("another block", answer=steered(shift=1))
length_ignored = replacing("max_new_tokens", answer=steered(tokens=10))
judge_without_a_template = replacing("eval_prompt_template", judge=lambda q, a, t: score(q, a, "{question} {answer}"))
judge_asked_the_wrong_way_round = replacing("eval_prompt_template", judge=lambda q, a, t: score(a, q, t))
braces_left = replacing(
    "eval_prompt_template",
    judge=lambda q, a, t: number(asked([{"role": "user", "content": t}])),
)
failed_calls_as_none = replacing("failed call of the judge.*no `try`", judge=none_where_it_fails)
score_invented = replacing("no score that the judge gave", judge=lambda q, a, t: 50)
none_as_zero = replacing("REFUSAL, which is no score", judge=lambda q, a, t: score(q, a, t) or 0)
float_scores = replacing("'score' to be an int", judge=lambda q, a, t: (score(q, a, t) or 0) / 100)
reply_as_score = replacing("'score' to be an int", judge=lambda q, a, t: asked(messages_for(q, a, t)))
refusal_is_an_error = replacing("found ValueError", judge=lambda q, a, t: int(asked(messages_for(q, a, t))))
other_key = replacing(
    r"\['coefficient'\] missing", note=lambda c, q, a, s: {"coeff": c, "question": q, "response": a, "score": s}
)
tuples = replacing("list of dicts, found tuple", note=lambda c, q, a, s: (c, q, a, s))
coefficient_as_text = replacing("missing", note=lambda c, q, a, s: row(str(c), q, a, s))


def outer(words, change=lambda rows: rows, **defaults):
    """A wrong solution that changes the rows of a right one, or its defaults."""

    def solution(model, tok, questions, vector, template, layer=None, coefficients=None, max_new_tokens=256):
        layer = defaults.get("layer", 19) if layer is None else layer
        coefficients = defaults.get("coefficients") if coefficients is None else coefficients
        return change(sweep(model, tok, questions, vector, template, layer, coefficients, max_new_tokens))

    solution.__module__ = __name__
    return wrong(words)(solution)


def scores_shifted(rows):
    scores = [r["score"] for r in rows]
    return [r | {"score": s} for r, s in zip(rows, scores[3:] + scores[:3], strict=True)]


def responses_swapped(rows):
    """Labels of coefficients in reverse, as after a sort."""
    labels = [r["coefficient"] for r in rows][::-1]
    return [r | {"coefficient": c} for r, c in zip(rows, labels, strict=True)]


def mean_scores(rows):
    known = [r["score"] for r in rows if r["score"] is not None]
    return [r | {"score": sum(known) // len(known) if known else None} for r in rows]


unscored_dropped = outer("missing", lambda rows: [r for r in rows if r["score"] is not None])
empty_answers_dropped = outer(
    "ends every answer at once.*missing", lambda rows: [r for r in rows if r["response"].strip()]
)
mean_score_of_a_coefficient = outer("found None|score of|no score", mean_scores)
first_question_only = outer("missing", lambda rows: rows[::3])
last_coefficient_only = outer("missing", lambda rows: rows[-3:])
zero_left_out = outer("missing", lambda rows: [r for r in rows if r["coefficient"]])
rows_twice = outer("found more", lambda rows: rows + rows)
a_dict = outer("expected a list of dicts, found dict", lambda rows: {r["coefficient"]: r for r in rows})
scores_mixed_up = outer("score of another row", scores_shifted)
coefficients_mixed_up = outer("another coefficient", responses_swapped)
other_default_layer = outer("another block", layer=18)
other_default_coefficients = outer("missing", coefficients=[-5.0, -3.0, -1.0, 0.0, 1.0, 3.0])


@wrong("failed call of the judge.*threads")
def errors_left_in_threads(model, tok, questions, vector, template, layer=19, coefficients=None, max_new_tokens=256):
    """Nobody asks the threads how it went."""
    results = sweep(
        model, tok, questions, vector, template, layer, coefficients, max_new_tokens, judge=lambda q, a, t: None
    )

    def score_one(result):
        result["score"] = score(result["question"], result["response"], template)

    with ThreadPoolExecutor(max_workers=10) as executor:
        executor.map(score_one, results)
    return results


@wrong("coefficients add up|left behind")
def steerers_pile_up(model, tok, questions, vector, template, layer=19, coefficients=None, max_new_tokens=256):
    """Enters a steerer for each coefficient, and leaves them all at the end."""
    entered = []

    def answer(model, tok, question, vector, layer, c, max_new_tokens):
        if not entered or entered[-1].coeff != c:
            entered.append(Base(model, vector, c, layer))
            entered[-1].__enter__()
        return at_all_positions(model, tok, question, vector, layer, 0.0, max_new_tokens=max_new_tokens)

    try:
        return sweep(model, tok, questions, vector, template, layer, coefficients, max_new_tokens, answer=answer)
    finally:
        for steerer in entered:
            steerer.__exit__()


@wrong("coefficients multiply")
def factors_pile_up(model, tok, questions, vector, template, layer=19, coefficients=None, max_new_tokens=256):
    rows = []
    for c in DEFAULTS if coefficients is None else coefficients:
        vector = c * vector
        made = sweep(model, tok, questions, vector, template, layer, [1.0], max_new_tokens)
        rows += [r | {"coefficient": c} for r in made]
    return rows


@wrong("left behind")
def hook_left(model, tok, questions, vector, template, layer=19, coefficients=None, max_new_tokens=256):
    rows = in_loops(model, tok, questions, vector, template, layer, coefficients, max_new_tokens)
    Base(model, vector, 1.0, layer).__enter__()
    return rows


@wrong("After an error.*left behind")
def hook_left_after_an_error(model, tok, questions, vector, template, layer=19, coefficients=None, max_new_tokens=256):
    def answer(model, tok, question, vector, layer, c, max_new_tokens):
        steerer = Base(model, vector, c, layer)
        steerer.__enter__()
        reply = at_all_positions(model, tok, question, vector, layer, 0.0, max_new_tokens=max_new_tokens)
        steerer.__exit__()
        return reply

    return sweep(model, tok, questions, vector, template, layer, coefficients, max_new_tokens, answer=answer)


@wrong("answers another question")
def always_the_first_question(model, tok, questions, vector, template, layer=19, coefficients=None, max_new_tokens=256):
    def answer(model, tok, question, vector, layer, c, max_new_tokens):
        return at_all_positions(model, tok, questions[0], vector, layer, c, max_new_tokens=max_new_tokens)

    return sweep(model, tok, questions, vector, template, layer, coefficients, max_new_tokens, answer=answer)


@wrong("caller's list")
def empties_the_list(model, tok, questions, vector, template, layer=19, coefficients=None, max_new_tokens=256):
    kept = list(questions)
    questions.clear()
    return in_loops(model, tok, kept, vector, template, layer, coefficients, max_new_tokens)
