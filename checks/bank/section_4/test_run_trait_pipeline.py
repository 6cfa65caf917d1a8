# Over 300 lines on purpose: one file an exercise, and its table of solutions is the content.
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch

import utils
from checks.bank import right, wrong
from checks.bank.section_4.pipeline_parts import (
    answers,
    asked,
    coherence_of,
    effective,
    judge,
    own_batches,
    own_loop,
    pipeline,
    scores,
    steer,
    vectors_of,
)
from personalab.lm import generation
from personalab.records.steps import load_or_generate, steps_dir


@right
def in_steps(*args, **options):
    return pipeline(*args, **options)


@right
def by_the_library(*args, **options):
    """The engine's answers, and coherence asked only where the scores would do."""

    def answered(model, tokenizer, data, name, max_new_tokens):
        rows = list(asked(data, name))
        requests = [
            generation.Request(utils.as_messages(r["system_prompt"], r["question"]), max_new_tokens) for r in rows
        ]
        completions = generation.generate(model, tokenizer, requests)
        return [r | {"response": c.text} for r, c in zip(rows, completions, strict=True)]

    def sparing(responses, data):
        rows = [r | {"score": judge(filled(data["eval_prompt"], r))} for r in responses]
        wanted = [r for pair in effective(rows, coherent=lambda pos, neg: True) for r in pair]
        return [r | {"coherence": coherence_of(r["question"], r["response"]) if r in wanted else None} for r in rows]

    return pipeline(*args, **options, answers=answered, scores=sparing)


def filled(rubric, row):
    return rubric.format(question=row["question"], answer=row["response"])


@right
def with_pandas(*args, **options):
    """A table of all answers; missing scores are NaN there, which is neither 50 or more nor less than 50."""

    def table_of(scored):
        table = pd.DataFrame(scored)
        table[["score", "coherence"]] = table[["score", "coherence"]].apply(pd.to_numeric)
        sides = table.set_index(["instruction_idx", "question"]).groupby("polarity")
        both = sides.get_group("pos").join(sides.get_group("neg"), lsuffix="_pos", rsuffix="_neg")
        scores = (both.score_pos >= 50) & (both.score_neg < 50)
        kept = both[scores & (both[["coherence_pos", "coherence_neg"]].min(axis=1, skipna=False) >= 50)].reset_index()
        names = ("system_prompt", "response")
        return [
            [{"question": row.question} | {n: getattr(row, f"{n}_{p}") for n in names} for p in ("pos", "neg")]
            for row in kept.itertuples()
        ]

    return pipeline(*args, **options, effective=table_of)


@right
def in_another_folder_first(model, tokenizer, trait_name, *args, override=False, **options):
    """What `override` makes takes the old run's place when it is whole."""
    if not override:
        return pipeline(model, tokenizer, trait_name, *args, **options)
    folder, fresh = steps_dir(trait_name), steps_dir(f"{trait_name}_fresh")
    shutil.rmtree(fresh)
    found = pipeline(
        model, tokenizer, trait_name, *args, **options, folder=lambda name: steps_dir(f"{trait_name}_fresh")
    )
    shutil.rmtree(folder)
    fresh.rename(folder)
    return found


def in_the_chapters_way(
    model, tokenizer, trait_name, trait_data, layer, coefficients, max_new_tokens, override, coherent, wipe
):
    """ARENA 4.4's: a helper that writes in place, one prompt at a time, tensors as lists, the end marker counted."""
    cache_dir = Path("trait_cache")
    cache_dir.mkdir(exist_ok=True)
    for path in sorted(cache_dir.glob(f"{trait_name}_*")) if override and wipe else ():
        path.unlink()

    def load_or_generate(path, generate_fn, description):
        if path.exists() and not override:
            print(f"Loading cached {description} from {path}")
            with open(path) as f:
                return json.load(f)
        print(f"Generating {description}...")
        data = generate_fn()
        with open(path, "w") as f:
            json.dump(data, f, indent=2)
        return data

    responses = load_or_generate(
        cache_dir / f"{trait_name}_responses.json",
        lambda: list(answers(model, tokenizer, trait_data, trait_name, max_new_tokens, 1)),
        "contrastive responses",
    )
    scored = load_or_generate(
        cache_dir / f"{trait_name}_scored.json",
        lambda: (
            scores(responses, trait_data)
            if coherent
            else [r | {"score": judge(filled(trait_data["eval_prompt"], r)), "coherence": 100} for r in responses]
        ),
        "trait scores",
    )

    def extract():
        means = []
        for pair in effective(scored):
            sides = []
            for r in pair:
                messages = utils.as_messages(r["system_prompt"], r["question"], r["response"])
                ids, ((start, end),) = utils.turn_spans(messages, tokenizer)
                with torch.inference_mode():
                    hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1:]
                sides.append(torch.stack([h[0, start : end + 1].float().mean(0) for h in hidden]))
            means.append(sides[0] - sides[1])
        if not means:
            raise ValueError("No effective pairs.")
        return torch.stack(means).mean(0).tolist()

    vectors = torch.tensor(load_or_generate(cache_dir / f"{trait_name}_vectors.json", extract, "trait vectors"))
    questions = trait_data.get("eval_questions", trait_data["questions"])
    args = (questions, vectors[layer], trait_data["eval_prompt"], layer, coefficients, max_new_tokens)
    path = cache_dir / f"{trait_name}_steering.json"
    return vectors, load_or_generate(path, lambda: steer(model, tokenizer, *args), "steering results")


def arena(coherent, wipe):
    def solution(
        model,
        tokenizer,
        trait_name,
        trait_data,
        layer=19,
        steering_coefficients=None,
        max_new_tokens=256,
        override=False,
    ):
        given = (trait_name, trait_data, layer, steering_coefficients, max_new_tokens, override)
        return in_the_chapters_way(model, tokenizer, *given, coherent, wipe)

    solution.__module__ = __name__
    return solution


arena_style = right(arena(coherent=True, wipe=True))
arena_without_coherence = wrong("expected coherence scores, found none: keep pairs")(arena(coherent=False, wipe=True))
arena_override = wrong("interrupted while scoring.*old run.*delete all files")(arena(coherent=True, wipe=False))


@right
def loops_of_ones_own(*args, **options):
    """Batches for the answers, one prompt after the other under the steerer."""
    return pipeline(
        *args,
        **options,
        answers=lambda *rest: list(answers(*rest, write=own_batches)),
        steer=lambda *rest: steer(*rest, write=own_loop),
    )


@right
def answers_tokenised_as_they_come(*args, **options):
    """As Section 3 accepts it: the template as text, then tokenizer(text), which for Qwen adds no BOS."""
    return pipeline(*args, **options, answers=lambda *rest: list(answers(*rest, special=True)))


@right
def negatives_scored_only_where_needed(*args, **options):
    def lazily(responses, data):
        positive = scores([r for r in responses if r["polarity"] == "pos"], data)  # its coherence, too
        good = {(r["instruction_idx"], r["question"]) for r in positive if (r["score"] or 0) >= 50}
        negative = [r for r in responses if r["polarity"] == "neg" and (r["instruction_idx"], r["question"]) in good]
        return positive + scores(negative, data)

    return pipeline(*args, **options, scores=lazily)


def with_steps(**changes):
    """The pipeline with some steps exchanged."""

    def solution(*args, **options):
        return pipeline(*args, **options, **changes)

    solution.__module__ = __name__
    return solution


def changed(words, **changes):
    """A wrong solution that differs in one step."""
    return wrong(words)(with_steps(**changes))


def steered(words, change):
    """A wrong solution that hands something else to the steering experiment; `change` edits its arguments."""

    def other(model, tokenizer, questions, vector, rubric, layer, coefficients, max_new_tokens):
        given = SimpleNamespace(
            questions=questions, vector=vector, rubric=rubric, layer=layer, coefficients=coefficients, n=max_new_tokens
        )
        change(given)
        return steer(model, tokenizer, *vars(given).values())

    return wrong(words)(with_steps(steer=other))


def unwritten(path, make, description, override=False):
    return make() if override else load_or_generate(path, make, description)


override_ignored = changed(
    "override=True: expected answers.*old file", kept=("answers", "scores", "vectors", "steering")
)
old_answers = changed("override=True: expected answers.*old file", kept=("answers",))
old_scores = changed("override=True: expected scores", kept=("scores",))
old_vectors = changed("vectors come from the answers of an earlier run", kept=("vectors",))
old_steering = changed("override=True: expected steered answers", kept=("steering",))
override_not_written = changed("after one with override=True: expected every step", cached=unwritten)
nothing_cached = changed("same call again.*new answers", uncached=("answers", "scores", "vectors", "steering"))
answers_not_cached = changed("same call again.*new answers", uncached=("answers",))
steering_not_cached = changed("same call again.*new steered answers", uncached=("steering",))
scores_not_cached = changed("same call again.*new scores", uncached=("scores",))
one_folder_for_all = changed("another trait.*trait_name", folder=lambda name: steps_dir("boastfulness"))
unfiltered = changed(
    "every pair was used", effective=lambda scored: effective(scored, sides=(), coherent=lambda pos, neg: True)
)
positives_filtered_only = changed("wrong values", effective=lambda scored: effective(scored, sides=("pos",)))
filtered_before_scoring = changed(
    "expected a result, found ValueError.*The steps, in order",
    scores=lambda responses, data: [r | {"score": None} for r in responses],
)
flipped = changed("sign is flipped", vectors=lambda *args: -vectors_of(*args))
embedding_included = changed(
    r"expected shape \(4, 32\)", vectors=lambda *args: torch.cat([torch.zeros(1, 32), vectors_of(*args)])
)
a_list_of_vectors = changed("expected a torch.Tensor", returned=lambda v, r: (v.tolist(), r))
results_only = changed("expected \\(trait_vectors", returned=lambda v, r: r)
results_by_coefficient = changed(
    "expected a list of results", returned=lambda v, r: (v, {x["coefficient"]: x["response"] for x in r})
)
no_scores = changed("'score'", returned=lambda v, r: (v, [{k: x[k] for k in x if k != "score"} for x in r]))
defaults_forgotten = steered(
    "default coefficients: expected one result", lambda a: vars(a).update(coefficients=a.coefficients or [-1.0, 1.0])
)
zero_left_out = steered(
    "expected one result", lambda a: vars(a).update(coefficients=[c for c in a.coefficients or [1.0] if c])
)
normalised = steered("normalised first", lambda a: vars(a).update(vector=a.vector / a.vector.norm()))
other_block = steered("from block 2 on", lambda a: vars(a).update(layer=a.layer + 1))
block_below = steered("from block 0 on", lambda a: vars(a).update(layer=a.layer - 1))
other_sign = steered("sign is wrong", lambda a: vars(a).update(vector=-a.vector))
not_steered = steered("found none", lambda a: vars(a).update(vector=0 * a.vector))
under_a_system_prompt = changed(
    "without a system prompt", steer=lambda *rest: steer(*rest, system="You are a helpful assistant.")
)
one_question_left_over = changed("steering on all of.*slice", questions=lambda data: data["questions"][:1])
first_question_left_out = changed("steering on all of.*slice", questions=lambda data: data["questions"][1:])
steered_on_both_lists = changed(
    'steering on all of "eval_questions"', questions=lambda data: data["questions"] + data.get("eval_questions", [])
)
eval_questions_ignored = changed('steering on all of "eval_questions"', questions=lambda data: data["questions"])
half_of_the_questions_each = changed(
    "only some of the questions",
    answers=lambda m, t, data, *rest: list(answers(m, t, data | {"questions": data["questions"][:3]}, *rest)),
)


def paired(words, **changes):
    """A wrong solution that takes other pairs."""
    return wrong(words)(with_steps(effective=lambda scored: effective(scored, **changes)))


def asked_first(scored):
    """A dict by question keeps one pair of each."""
    return list({pos["question"]: (pos, neg) for pos, neg in reversed(effective(scored))}.values())


coherence_ignored = paired("coherence was not looked at", coherent=lambda pos, neg: True)
mean_of_both = paired(
    "coherence of a pair's two answers was averaged", coherent=lambda p, n: (p or 0) + (n or 0) >= 100
)
positive_coherence_only = paired("only the positive answer's coherence", coherent=lambda p, n: (p or 0) >= 50)
unscored_is_coherent = paired(
    "without a coherence score", coherent=lambda p, n: min(100 if c is None else c for c in (p, n)) >= 50
)
more_than_fifty = paired("coherence of just 50", coherent=lambda p, n: min(p or 0, n or 0) > 50)
unscored_negative_is_zero = paired(
    "as if that were 0", shown=lambda score, side: 0 if score is None and side == "neg" else score
)
one_pair_a_question = changed("one pair a question was used, the first", effective=asked_first)
last_pair_of_a_question = changed(
    "one pair a question was used, the last",
    effective=lambda scored: list({pos["question"]: (pos, neg) for pos, neg in effective(scored)}.values()),
)


def asked_otherwise(change):
    """Scores from a rubric filled in with something else: `change(row)`."""
    return lambda responses, data: [
        r
        | {"score": judge(filled(data["eval_prompt"], r | change(r)))}
        | {"coherence": coherence_of(r["question"], r["response"])}
        for r in responses
    ]


judge_asked_the_wrong_way_round = changed(
    "whole answer to it filled in",
    scores=asked_otherwise(lambda r: {"question": r["response"], "response": r["question"]}),
)
judge_sees_the_beginning = changed(
    "whole answer to it filled in", scores=asked_otherwise(lambda r: {"response": r["response"][:9]})
)
judge_sees_the_prompt_too = changed(
    "whole answer to it filled in",
    scores=asked_otherwise(lambda r: {"question": f"{r['system_prompt']} {r['question']}"}),
)
STEPS_ON_DISK = ("answers", "scores", "vectors", "steering")
unscored_steering_is_zero = changed(
    "None stands for REFUSAL", returned=lambda v, r: (v, [x | {"score": x["score"] or 0} for x in r])
)
step_by_step = changed("interrupted while scoring.*old run.*delete all files", kept=STEPS_ON_DISK, overridden=True)
old_vectors_kept_to_the_end = changed("interrupted while scoring", kept=("vectors", "steering"), overridden=True)
no_pairs_no_vector = changed(
    "finds the trait nowhere.*expected a ValueError, found none",
    vectors=lambda m, t, pairs: vectors_of(m, t, pairs) if pairs else torch.zeros(4, 32),
)
another_error = changed(
    "finds the trait nowhere.*expected a ValueError, found RuntimeError",
    vectors=lambda m, t, pairs: vectors_of(m, t, pairs) if pairs else torch.stack([]),
)


@wrong("an empty list was written to pairs.json")
def empty_pairs_cached(model, tokenizer, trait_name, *args, **options):
    def written(scored):
        path = steps_dir(trait_name) / "pairs.json"
        if options.get("override"):
            path.unlink(missing_ok=True)
        return load_or_generate(path, lambda: effective(scored), "pairs")

    return pipeline(model, tokenizer, trait_name, *args, **options, effective=written)


@wrong("same call again.*new coherence scores")
def coherence_asked_each_time(*args, **options):
    """Asks for coherence at every call, though all else is on disk."""

    def cached(path, make, description, override=False):
        if path.name != "scores.json":
            return load_or_generate(path, make, description, override=override)
        rows = load_or_generate(path, lambda: [r | {"coherence": None} for r in make()], description, override=override)
        return [r | {"coherence": coherence_of(r["question"], r["response"])} for r in rows]

    return pipeline(*args, **options, cached=cached)


@wrong("no judge.*judge_model")
def asks_the_model_under_study(*args, **options):
    def one(row, rubric):
        prompt = rubric.format(question=row["question"], answer=row["response"])
        reply = utils.generate_response([{"role": "user", "content": prompt}])
        return int(reply) if reply.isdigit() else None

    def by_default(responses, data):
        rubrics = {"score": data["eval_prompt"], "coherence": utils.COHERENCE_PROMPT}
        return [r | {key: one(r, rubric) for key, rubric in rubrics.items()} for r in responses]

    return pipeline(*args, **options, scores=by_default)


vectors_from_both_lists = changed(
    '"questions" only',
    answers=lambda m, t, data, *rest: list(
        answers(m, t, data | {"questions": data["questions"] + data.get("eval_questions", [])}, *rest)
    ),
)
long_steered_answers = steered("in a steered answer", lambda a: vars(a).update(n=256))
long_answers = changed("in an answer under", answers=lambda m, t, d, name, n: list(answers(m, t, d, name, 256)))


def shifted_row(words, step):
    def solution(model, tokenizer, trait_name, trait_data, layer=19, **options):
        rows = []

        def remembered(*args):
            rows[:] = vectors_of(*args)
            return torch.stack(rows)

        def with_another_row(model, tokenizer, questions, vector, *rest):
            return steer(model, tokenizer, questions, rows[layer + step], *rest)

        return pipeline(
            model, tokenizer, trait_name, trait_data, layer, **options, vectors=remembered, steer=with_another_row
        )

    solution.__module__ = __name__
    return wrong(words)(solution)


row_above = shifted_row("row 2 of the vectors", 1)
row_below = shifted_row("row 0 of the vectors", -1)


@wrong("interrupted half way.*half-made list")
def half_a_list_kept(*args, **options):
    """Saves answers as they come, and takes what is there for all."""

    def kept(path, make, description, override=False):
        if path.name != "answers.json" or (path.exists() and not override):
            return load_or_generate(path, make, description, override=override)
        done = []
        for row in make():
            done.append(row)
            path.write_text(json.dumps(done))
        return done

    return pipeline(*args, **options, cached=kept, answers=lambda *rest: answers(*rest, 1))


@wrong("half-written file used")
def lines_read_as_far_as_they_go(*args, **options):
    """One JSON object a line; a file that breaks off is shorter, nothing else."""

    def by_lines(path, make, description, override=False):
        if path.suffix == ".safetensors":
            return make()
        if override or not path.exists():
            path.write_text("".join(json.dumps(row) + "\n" for row in make()))
        return [json.loads(line) for line in path.read_text().splitlines()]

    return pipeline(*args, **options, cached=by_lines)


@wrong("interrupted while scoring.*new answers")
def answers_and_scores_in_one_step(*args, **options):
    def both(model, tokenizer, data, *rest):
        return scores(list(answers(model, tokenizer, data, *rest)), data)

    return pipeline(*args, **options, answers=both, scores=lambda scored, data: scored)


@wrong("interrupted while scoring.*new answers|interrupted at the steering")
def everything_in_one_step(model, tokenizer, trait_name, trait_data, *args, override=False, **options):
    folder, kept = steps_dir(trait_name), {}

    def make():
        vectors, kept["results"] = pipeline(
            model, tokenizer, trait_name, trait_data, *args, **options, cached=lambda p, make, d, override: make()
        )
        return vectors

    vectors = load_or_generate(folder / "vectors.safetensors", make, "vectors", override=override)
    return vectors, load_or_generate(folder / "results.json", lambda: kept["results"], "results", override=bool(kept))


@wrong("interrupted at the steering step.*answers scored again")
def scores_kept_with_the_steering(*args, **options):
    """Scores, vectors and steering are written at the end, together."""
    late = {}

    def at_the_end(path, make, description, override=False):
        if path.name == "answers.json" or (path.exists() and not override):
            return load_or_generate(path, make, description, override=override)
        late[path] = make()
        if path.name == "steering.json":
            for file, content in late.items():
                load_or_generate(file, lambda content=content: content, description, override=True)
        return late[path]

    return pipeline(*args, **options, cached=at_the_end)


@wrong("trait_data was changed")
def answers_put_into_trait_data(model, tokenizer, trait_name, trait_data, *args, **options):
    found = pipeline(model, tokenizer, trait_name, trait_data, *args, **options)
    trait_data["responses"] = found[1]
    return found


@wrong("the judge said")
def first_score_for_all(*args, **options):
    def other(*rest):
        results = steer(*rest)
        return [r | {"score": results[0]["score"]} for r in results]

    return pipeline(*args, **options, steer=other)


@wrong("interrupted while scoring|interrupted at the steering|ValueError")
def failed_calls_scored_zero(*args, **options):
    def swallowing(responses, data):
        def one(response):
            try:
                return scores([response], data)[0]
            except Exception:
                return response | {"score": 0}

        return [one(r) for r in responses]

    return pipeline(*args, **options, scores=swallowing)
