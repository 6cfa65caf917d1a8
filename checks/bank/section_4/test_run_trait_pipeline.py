# Over 300 lines on purpose: one file an exercise, and its table of solutions is the content.
import json
from pathlib import Path
from types import SimpleNamespace

import torch

import utils
from checks.bank import right, wrong
from checks.bank.section_4.pipeline_parts import (
    answers,
    asked,
    effective,
    judge,
    pipeline,
    scores,
    steer,
    vectors_of,
)
from personalab.lm import generation
from personalab.records.steps import load_or_generate, steps_dir


@right
def override_a_step_at_a_time(*args, **options):
    return pipeline(*args, **options)


@right
def files_deleted_first(model, tokenizer, trait_name, trait_data, layer=19, override=False, **options):
    """As our reference: coherence too, answers by the library, override deletes the files."""
    if override:
        for file in steps_dir(trait_name).iterdir():
            file.unlink()

    def by_the_library(model, tokenizer, data, name, max_new_tokens):
        rows = list(asked(data, name))
        requests = [
            generation.Request(utils.as_messages(r["system_prompt"], r["question"]), max_new_tokens) for r in rows
        ]
        completions = generation.generate(model, tokenizer, requests)
        return [r | {"response": c.text} for r, c in zip(rows, completions, strict=True)]

    def coherent(responses, data):
        return [r for r in scores(responses, data) if judge(f"Is this coherent, 0-100? {r['response']}") >= 50]

    return pipeline(
        model, tokenizer, trait_name, trait_data, layer, **options,
        answers=by_the_library, scores=coherent, questions=lambda data: data.get("eval_questions", data["questions"]),
    )  # fmt: skip


@right
def in_arena_style(
    model, tokenizer, trait_name, trait_data, layer=19, steering_coefficients=None, max_new_tokens=256, override=False
):
    """One prompt at a time, a helper of its own that writes in place, tensors as lists, the end marker counted."""
    if steering_coefficients is None:
        steering_coefficients = [-3.0, -1.0, 0.0, 1.0, 3.0, 5.0]
    cache_dir = Path("trait_cache")
    cache_dir.mkdir(exist_ok=True)

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
        cache_dir / f"{trait_name}_scored.json", lambda: scores(responses, trait_data), "trait scores"
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
        return torch.stack(means).mean(0).tolist()

    vectors = torch.tensor(load_or_generate(cache_dir / f"{trait_name}_vectors.json", extract, "trait vectors"))
    results = load_or_generate(
        cache_dir / f"{trait_name}_steering.json",
        lambda: steer(
            model,
            tokenizer,
            trait_data["questions"],
            vectors[layer],
            trait_data["eval_prompt"],
            layer,
            steering_coefficients,
            max_new_tokens,
        ),
        "steering results",
    )
    return vectors, results


@right
def half_of_the_questions_each(model, tokenizer, trait_name, trait_data, layer=19, **options):
    """Vectors from some questions, steering on the others."""
    extraction = trait_data | {"questions": trait_data["questions"][:2]}

    def on_the_others(model, tokenizer, questions, *rest):
        return steer(model, tokenizer, trait_data["questions"][2:], *rest)

    return pipeline(model, tokenizer, trait_name, extraction, layer, **options, steer=on_the_others)


@right
def answers_tokenised_as_they_come(*args, **options):
    """As Section 3 accepts it: the template as text, then tokenizer(text), which for Qwen adds no BOS."""
    return pipeline(*args, **options, answers=lambda *rest: list(answers(*rest, special=True)))


@right
def negatives_scored_only_where_needed(*args, **options):
    def lazily(responses, data):
        positive = scores([r for r in responses if r["polarity"] == "pos"], data)
        good = {(r["instruction_idx"], r["question"]) for r in positive if (r["score"] or 0) >= 50}
        negative = [r for r in responses if r["polarity"] == "neg" and (r["instruction_idx"], r["question"]) in good]
        return positive + scores(negative, data)

    return pipeline(*args, **options, scores=lazily)


def changed(words, **changes):
    """A wrong solution that differs in one step."""

    def solution(*args, **options):
        return pipeline(*args, **options, **changes)

    solution.__module__ = __name__
    return wrong(words)(solution)


def steered(words, change):
    """A wrong solution that hands something else to the steering experiment; `change` edits its arguments."""

    def other(model, tokenizer, questions, vector, rubric, layer, coefficients, max_new_tokens):
        given = SimpleNamespace(
            questions=questions, vector=vector, rubric=rubric, layer=layer, coefficients=coefficients, n=max_new_tokens
        )
        change(given)
        return steer(model, tokenizer, *vars(given).values())

    return changed(words, steer=other)


def unwritten(path, make, description, override=False):
    return make() if override else load_or_generate(path, make, description)


override_ignored = changed(
    "override=True: expected answers.*old file", kept=("answers", "scores", "vectors", "steering")
)
old_answers = changed("override=True: expected answers.*old file", kept=("answers",))
old_scores = changed("override=True: expected scores", kept=("scores",))
old_vectors = changed("vectors come from the answers of an earlier run", kept=("vectors",))
old_steering = changed("override=True: expected steered answers", kept=("steering",))
override_not_written = changed("after one with override=True: expected the vectors and results", cached=unwritten)
nothing_cached = changed("same call again.*new answers", uncached=("answers", "scores", "vectors", "steering"))
answers_not_cached = changed("same call again.*new answers", uncached=("answers",))
steering_not_cached = changed("same call again.*new steered answers", uncached=("steering",))
scores_not_cached = changed("same call again.*new scores", uncached=("scores",))
one_folder_for_all = changed("another trait.*trait_name", folder=lambda name: steps_dir("boastfulness"))
unfiltered = changed(
    "every pair was used", effective=lambda scored: effective([r | {"score": None} for r in scored], sides=())
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
    "default coefficients.*expected one result", lambda a: vars(a).update(coefficients=a.coefficients or [-1.0, 1.0])
)
zero_left_out = steered(
    "expected one result", lambda a: vars(a).update(coefficients=[c for c in a.coefficients or [1.0] if c])
)
normalised = steered("normalised first", lambda a: vars(a).update(vector=a.vector / a.vector.norm()))
other_block = steered("from block 2 on", lambda a: vars(a).update(layer=a.layer + 1))
block_below = steered("from block 0 on", lambda a: vars(a).update(layer=a.layer - 1))
other_sign = steered("sign is wrong", lambda a: vars(a).update(vector=-a.vector))
not_steered = steered("found none", lambda a: vars(a).update(vector=0 * a.vector))
one_question_left_over = changed("steering on all of.*slice", questions=lambda data: data["questions"][:1])
first_question_left_out = changed("steering on all of.*slice", questions=lambda data: data["questions"][1:])
steered_on_both_lists = changed(
    'steering on "eval_questions"', questions=lambda data: data["questions"] + data.get("eval_questions", [])
)
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
        return scores(answers(model, tokenizer, data, *rest), data)

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
