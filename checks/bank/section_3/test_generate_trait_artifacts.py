# Over 300 lines on purpose: one file an exercise, and its table of solutions is the content.
import json
import re

import openai
import pandas as pd
from pydantic import BaseModel, Field, field_validator, model_validator

import utils
from checks.bank import right, wrong

PROMPT = """Trait: {name}. {description}
Reply with JSON: "instruction" (5 objects with "pos" and "neg"), "questions" (40) and "eval_prompt"."""


def ask(name, description, client=None, max_tokens=4096, template=PROMPT, note=""):
    prompt = template.format(name=name, description=description) + note
    return utils.generate_response([{"role": "user", "content": prompt}], max_tokens=max_tokens, client=client)


def read(reply):
    return json.loads(reply[reply.find("{") : reply.rfind("}") + 1])


def is_text(value):
    return isinstance(value, str) and bool(value.strip())


def rubric_works(rubric):
    try:
        filled = rubric.format(question="Q?!", answer="A?!")
    except Exception:
        return False
    return "Q?!" in filled and "A?!" in filled


CHECKS = {  # name -> whether that part of a reply is right, where those before it are
    "object": lambda a: isinstance(a, dict),
    "pairs": lambda a: isinstance(a.get("instruction"), list) and all(isinstance(p, dict) for p in a["instruction"]),
    "five": lambda a: len(a["instruction"]) == 5,
    "sides": lambda a: all(is_text(p.get(s)) for p in a["instruction"] for s in ("pos", "neg")),
    "contrast": lambda a: all(p["pos"] != p["neg"] for p in a["instruction"]),
    "different pairs": lambda a: len({p["pos"] for p in a["instruction"]}) == len(a["instruction"]),
    "list": lambda a: isinstance(a.get("questions"), list),
    "forty": lambda a: len(a["questions"]) == 40,
    "texts": lambda a: all(map(is_text, a["questions"])),
    "different": lambda a: len(set(map(str, a["questions"]))) == len(a["questions"]),
    "rubric": lambda a: is_text(a.get("eval_prompt")),
    "placeholders": lambda a: rubric_works(a["eval_prompt"]),
    "scale": lambda a: "100" in a["eval_prompt"],
    "refusal": lambda a: "REFUSAL" in a["eval_prompt"],
}


def split(a):
    return a | {"questions": a["questions"][:20], "eval_questions": a["questions"][20:]}


def solve(name, description, client=None, skip=(), attempts=1, read=read, told=False, **options):
    problem = None
    for attempt in range(attempts):
        try:
            note = f" Reply {attempt} could not be used: {problem}." if told and attempt else ""
            found = read(ask(name, description, client, note=note, **options))
        except ValueError:
            problem = "no JSON"
            continue
        problem = next((c for c, holds in CHECKS.items() if c not in skip and not holds(found)), None)
        if problem is None:
            return split(found)
    raise ValueError(f"The artifact for {name} is unusable: {problem}.")


@right
def refuses_at_once(trait_name, description, client=None):
    return solve(trait_name, description, client)


@wrong("same request was sent once more")
def asks_again(trait_name, description, client=None):
    return solve(trait_name, description, client, attempts=4)


@right
def asks_again_and_says_why(trait_name, description, client=None):
    return solve(trait_name, description, client, attempts=4, told=True)


@right
def in_arena_style(trait_name: str, description: str, client=None) -> dict:
    """Straight to the client; a regular expression for the fence; what is too much is cut, and double braces undone."""
    client = client or utils.make_client()
    response = client.chat.completions.create(
        model=utils.current_tier().response_model,
        messages=[
            {"role": "system", "content": "You write test material. Reply in JSON."},
            {"role": "user", "content": PROMPT.format(name=trait_name, description=description)},
        ],
        max_completion_tokens=8000,
    )
    text = response.choices[0].message.content or ""
    match = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        data = json.loads(match.group(0)) if match else {}
        data["instruction"] = data["instruction"][:5]
        data["questions"] = list(dict.fromkeys(data["questions"]))[:40]
        data["eval_prompt"] = re.sub(r"\{\{(question|answer)\}\}", r"{\1}", data["eval_prompt"])
        problems = [check for check, holds in CHECKS.items() if not holds(data)]
    except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as e:
        raise ValueError(f"{trait_name}: malformed reply ({e!r})") from e
    if problems:
        raise ValueError(f"{trait_name}: {problems}")
    questions = data["questions"]
    return {
        "instruction": data["instruction"],
        "questions": questions[::2],
        "eval_questions": questions[1::2],
        "eval_prompt": data["eval_prompt"],
    }


class Pair(BaseModel):
    pos: str = Field(pattern=r"\S")
    neg: str = Field(pattern=r"\S")

    @model_validator(mode="after")
    def contrast(self):
        assert self.pos != self.neg
        return self


class Artifact(BaseModel, strict=True):
    instruction: list[Pair] = Field(min_length=5, max_length=5)
    questions: list[str] = Field(min_length=40, max_length=40)
    eval_prompt: str

    @field_validator("questions")
    def distinct(cls, questions):
        assert len({q.strip() for q in questions} - {""}) == 40
        return questions

    @field_validator("eval_prompt")
    def usable(cls, text):
        assert set(re.findall(r"\{(.*?)\}", text)) == {"question", "answer"}
        assert "{{" not in text and "0 " in text and "100" in text and "REFUSAL" in text
        return text

    @model_validator(mode="after")
    def no_pair_twice(self):
        assert len({p.pos for p in self.instruction}) == 5
        return self


@right
def with_pydantic(trait_name, description, client=None):
    for note in ("", " Mind the format.", " Mind the format!"):
        reply = ask(trait_name, description, client, note=note)
        try:
            found = Artifact.model_validate_json("{" + reply.partition("{")[2].rpartition("}")[0] + "}")
            return split(found.model_dump())
        except ValueError as error:
            last = error
    raise ValueError(f"{trait_name}: {last}") from last


def skipping(*checks, words, **options):
    """A solution that lacks some checks."""

    @wrong(words)
    def solution(trait_name, description, client=None):
        return solve(trait_name, description, client, skip=checks, **options)

    return solution


no_check_of_pairs = skipping("pairs", words="no instruction.*Check each part before you use it")
no_count_of_pairs = skipping("five", words="4 pairs.*4 entries, not 5 pairs")
no_check_of_sides = skipping("sides", words="without its negative side.*Check each part")
no_check_of_contrast = skipping("contrast", words="both sides of a pair are the same")
no_check_of_equal_pairs = skipping("different pairs", words="same pair of instructions occurs twice")
no_check_of_the_list = skipping("list", words="no questions.*Check each part")
no_count_of_questions = skipping("forty", words="39 questions.*expected 20 eval_questions, found 19")
no_check_of_texts = skipping("texts", words="8 is no question")
no_check_of_repetition = skipping("different", words="occurs twice, so evaluation questions may have been seen")
no_check_of_the_rubric = skipping("rubric", words="no eval_prompt.*Check each part before you use it")
no_check_of_placeholders = skipping("placeholders", words="lacks the placeholder {answer}")
no_check_of_the_scale = skipping("scale", words="does not ask for a score up to 100")
no_check_of_refusals = skipping("refusal", words="REFUSAL where the answer declines")
no_checks = skipping(*CHECKS, words="no instruction: the artifact lacks instruction")
bare_json_only = skipping(words="code fence.*from the first brace to the last", read=json.loads)
cut_reply = skipping(words="may take 256 tokens", max_tokens=256)
keys_not_named = skipping(words="does not name the key 'instruction'", template="Trait: {name}. {description} JSON!")
description_dropped = skipping(words="expected the description", template=PROMPT.replace("{description}", ""))
name_dropped = skipping(words="expected the trait's name", template=PROMPT.replace("{name}", ""))


@wrong("text of 40 characters for the questions.*expected 20 questions")
def a_text_counts_as_a_list(trait_name, description, client=None):
    def read_sized(reply):
        found = read(reply)
        if not isinstance(found.get("questions"), list | str):
            raise ValueError("no questions")
        return found

    return solve(trait_name, description, client, skip=("list", "texts", "different"), read=read_sized)


@wrong("other braces than")
def placeholders_by_their_text(trait_name, description, client=None):
    found = solve(trait_name, description, client, skip=("placeholders",))
    if not all(part in found["eval_prompt"] for part in ("{question}", "{answer}")):
        raise ValueError(f"{trait_name}: a placeholder is missing")
    return found


@wrong("JSON.*name the trait")
def bare_json_error(trait_name, description, client=None):
    read(ask(trait_name, description, client))
    return solve(trait_name, description, client)


@wrong("nothing that the model wrote")
def fills_up(trait_name, description, client=None):
    found = solve(trait_name, description, client, skip=("forty",))
    questions = found["questions"] + found["eval_questions"]
    questions += [f"What do you think of topic {n}?" for n in range(40 - len(questions))]
    return split(found | {"questions": questions[:40]})


@wrong("occurs twice")
def fills_up_by_repetition(trait_name, description, client=None):
    found = solve(trait_name, description, client, skip=("forty",))
    questions = found["questions"] + found["eval_questions"]
    return split(found | {"questions": (questions + questions)[:40]})


@wrong("occurs twice")
def evaluates_on_the_extraction_questions(trait_name, description, client=None):
    found = solve(trait_name, description, client)
    return found | {"eval_questions": found["questions"]}


@wrong("expected 20 questions, found 40")
def not_split(trait_name, description, client=None):
    found = solve(trait_name, description, client)
    return found | {"questions": found["questions"] + found["eval_questions"]}


@wrong("lacks eval_questions")
def extraction_half_only(trait_name, description, client=None):
    found = solve(trait_name, description, client)
    del found["eval_questions"]
    return found


@wrong("expected a dict, found NoneType")
def none_for_a_broken_reply(trait_name, description, client=None):
    try:
        return solve(trait_name, description, client)
    except ValueError:
        return None


@wrong("more than 12 times")
def asks_for_ever(trait_name, description, client=None):
    return solve(trait_name, description, client, attempts=10**6)


@wrong("client was not used")
def client_ignored(trait_name, description, client=None):
    return solve(trait_name, description)


@wrong("expected its eval_prompt as it is")
def rubric_of_its_own(trait_name, description, client=None):
    rubric = "Q: {question} A: {answer} 0 to 100 or REFUSAL?"
    return solve(trait_name, description, client) | {"eval_prompt": rubric}


@wrong("Let the error through")
def swallows_errors(trait_name, description, client=None):
    try:
        return solve(trait_name, description, client)
    except openai.OpenAIError:
        return {}


@wrong("expected openai.OpenAIError, found ValueError.*not around the call")
def failed_calls_count_as_broken_replies(trait_name, description, client=None):
    try:
        return solve(trait_name, description, client, attempts=3, told=True)
    except Exception as error:
        raise ValueError(f"No complete artifact for {trait_name} in 3 replies: {error}") from error


@right
def warmer_each_time(trait_name, description, client=None):
    """The same prompt at another temperature is another request."""
    client, problem = client or utils.make_client(), None
    for temperature in (0.7, 0.8, 0.9):
        reply = client.chat.completions.create(
            model=utils.judge_model(),
            messages=[{"role": "user", "content": PROMPT.format(name=trait_name, description=description)}],
            temperature=temperature,
            max_tokens=4096,
        )
        try:
            found = read(reply.choices[0].message.content)
        except json.JSONDecodeError as error:
            problem = error
            continue
        problem = next((c for c, holds in CHECKS.items() if not holds(found)), None)
        if problem is None:
            return split(found)
    raise ValueError(f"{trait_name}: {problem}")


@right
def by_a_decoder(trait_name, description, client=None):
    """The first object of the reply that can be decoded; what is odd in it comes out as a table of faults."""
    reply = ask(trait_name, description, client)
    found = None
    for start in (m.start() for m in re.finditer(r"\{", reply)):
        try:
            found, _ = json.JSONDecoder().raw_decode(reply[start:])
            break
        except json.JSONDecodeError:
            continue
    faults = pd.Series({name: None for name in CHECKS}, dtype=object)
    for name, holds in CHECKS.items():
        try:
            faults[name] = bool(holds(found))
        except (AttributeError, TypeError, KeyError):
            faults[name] = False
    if not faults.all():
        raise ValueError(f"{trait_name}: {', '.join(faults[~faults.astype(bool)].index)}")
    return split(found)


def but(words, change=lambda found: found, **options):
    """A wrong solution: the right artifact changed, or asked for otherwise."""

    def solution(trait_name, description, client=None):
        return change(solve(trait_name, description, client, **options))

    solution.__module__ = __name__
    return wrong(words)(solution)


one_question_in_both_halves = but(
    "occurs twice", lambda a: a | {"eval_questions": [a["questions"][0], *a["eval_questions"][1:]]}
)
thirty_and_ten = but(
    "expected 20 questions, found 30",
    lambda a: a | {"questions": a["questions"] + a["eval_questions"][:10], "eval_questions": a["eval_questions"][10:]},
)
questions_in_one_text = but("expected 20 questions, found", lambda a: a | {"questions": "\n".join(a["questions"])})
rubric_filled = but(
    "placeholder|as it is", lambda a: a | {"eval_prompt": a["eval_prompt"].format(question="-", answer="-")}
)
sides_swapped = but(
    "expected its instruction as it is",
    lambda a: a | {"instruction": [{"pos": p["neg"], "neg": p["pos"]} for p in a["instruction"]]},
)
names_the_trait_itself = but(
    "nothing that the model wrote",
    lambda a: a | {"instruction": [{s: f"You are theatrical. {t}" for s, t in p.items()} for p in a["instruction"]]},
)
as_json = but("expected a dict, found str", json.dumps)
first_brace_to_the_first = but(
    "The reply is complete", read=lambda reply: json.loads(reply[reply.find("{") : reply.find("}") + 1])
)


@wrong("name the trait")
def nameless_error(trait_name, description, client=None):
    try:
        return solve(trait_name, description, client)
    except ValueError as error:
        raise ValueError("The reply is incomplete.") from error


@wrong("same request was sent once more")
def waits_and_asks_again(trait_name, description, client=None):
    for _ in range(3):
        try:
            return solve(trait_name, description, client)
        except ValueError as error:
            last = error
    raise last
