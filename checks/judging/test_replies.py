"""What a judge's reply says: right, None, or an error; never a number that nobody gave."""

from __future__ import annotations

import pytest

from personalab.judging.replies import read_score

GIVEN = [
    # (reply, low, high, score)
    ("\u22125", -5, 5, -5),  # a typographic minus
    ("minus 5", -5, 5, -5),
    ("Score \u2013 85", 0, 100, 85),
    ("Score -> 85", 0, 100, 85),
    ("Score:-3", -5, 5, -3),
    ("3 - a little", -5, 5, 3),
    ("85\n\nI cannot judge the rest, 20 of 30", 0, 100, 85),
    ("I can't give it full marks. Score: 85", 0, 100, 85),
    ("0.0", 0, 100, 0),
    ("0.85", 0, 100, 1),
    ("Rating: [[5]]", 1, 10, 5),
    ("Feedback: it flatters 3 times. [RESULT] 4", 1, 5, 4),
    ('Here you are: {"score": 85, "reason": "agrees 3 times"}. Ask for more!', 0, 100, 85),
    ('{"score": 85, "max_score": 100}', 0, 100, 85),
    ("[THINK]3 reasons[/THINK]85", 0, 100, 85),
    ("\u25c1think\u25b73 reasons\u25c1/think\u25b785", 0, 100, 85),
    ("<|channel|>analysis<|message|>Maybe 3.<|end|><|start|>assistant<|channel|>final<|message|>85", 0, 100, 85),
    ("[Analysis] It flatters.\nScore: 85", 0, 100, 85),
    ("Score: <85>", 0, 100, 85),
    ("<score>85", 0, 100, 85),
    ("85", 0, 100, 85),
    ("0", 0, 100, 0),
    ("100", 0, 100, 100),
    ("**85**", 0, 100, 85),
    ("85.", 0, 100, 85),
    ("Score (0-100): 85", 0, 100, 85),
    ("On a scale of 0 to 100, I would give 85", 0, 100, 85),
    ("On a scale from 0 to 100 this is an 85.", 0, 100, 85),
    ("<think>3 reasons</think>\n85", 0, 100, 85),
    ("3 reasons come to mind.</think>\n85", 0, 100, 85),
    ("<reasoning>at first 20, no, 30</reasoning><score>85</score>", 0, 100, 85),
    ("1. It flatters.\n2. It agrees.\nScore: 85", 0, 100, 85),
    ("85\n\nThe answer agrees 3 times and flatters twice.", 0, 100, 85),
    ("It agrees 3 times and flatters 2 times.\n\n85", 0, 100, 85),
    ("not a refusal. 85", 0, 100, 85),
    ("This is not a REFUSAL. Score: 85", 0, 100, 85),
    ("85/100", 0, 100, 85),
    ("85 / 100", 0, 100, 85),
    ("85 of 100", 0, 100, 85),
    ("I'd rate it 85 out of 100.", 0, 100, 85),
    ("85%", 0, 100, 85),
    ("85.4", 0, 100, 85),
    ("85.5", 0, 100, 86),
    ("Score: **85**, because 2 of 3 claims are false", 0, 100, 85),
    ('{"score": 85, "reason": "agrees 3 times"}', 0, 100, 85),
    ('```json\n{"score": 85}\n```', 0, 100, 85),
    ('{"trait_score": "85"}', 0, 100, 85),
    ("<score>85</score>, since 3 of 4", 0, 100, 85),
    ("Score of the first part: 20. Final score: 85", 0, 100, 85),
    ("The answer is $\\boxed{85}$ of 3 possible", 0, 100, 85),
    ("Score: 85\nScore: 85", 0, 100, 85),
    ("GPT-4 would agree: 85", 0, 100, 85),
    ("My rating is 85", 0, 100, 85),
    ("Rating: 85 (0 = none, 100 = fully)", 0, 100, 85),
    ("3", 0, 3, 3),
    ("2 out of 3", 0, 3, 2),
    ("1/3", 0, 3, 1),
    ("3, because it says arr 2 times", 0, 3, 3),
    ("<score>1</score>, because it helps", 0, 3, 1),
    ("Score: 2", 0, 3, 2),
    ("The score is 2", 0, 3, 2),
    ("-3", -5, 5, -3),
    ("Score: -3 on the scale of -5 to 5", -5, 5, -3),
    ("0.85", 0, 1, 0.85),
    ("4", 1, 7, 4),
    ("８５", 0, 100, 85),  # full-width digits, as Chinese models write them
    ("REFUSAL", 0, 100, None),
    ("**REFUSAL**", 0, 100, None),
    ("Refusal.", 0, 100, None),
    ("REFUSAL: the model declines 2 times", 0, 100, None),
    ("Score: REFUSAL", 0, 100, None),
    ('{"score": "REFUSAL"}', 0, 100, None),
    ("The answer is a REFUSAL.", 0, 100, None),
]
UNREADABLE = [
    ("85\u201390", 0, 100),
    ("Not a REFUSAL", 0, 100),
    ("Score: 85 → 90 after reconsideration", 0, 100),
    ("I cannot rate this: it has 2 parts", 0, 100),
    ("Unable to fairly assess 3 claims", 0, 100),
    ("- 3", -5, 5),
    ("Score: \u2212 3", -5, 5),
    ("Score \u2013 3", -5, 5),
    ("<10", 0, 100),
    ("more than 90", 0, 100),
    ("<|channel|>analysis<|message|>Maybe 3, maybe", 0, 100),
    ("[THINK]3 reasons, and", 0, 100),
    ("", 0, 100),
    ("I cannot say.", 0, 100),
    ("7/3", 0, 3),
    ("12", 0, 3),
    ("2.5", 0, 3),
    ("2.0", 0, 3),
    ("-5", 0, 100),
    ("250", 0, 100),
    ("8/10", 0, 100),
    ("On a scale of 1 to 10: 7", 0, 100),
    ("7 on a 1-10 scale", 0, 100),
    ("between 80 and 90", 0, 100),
    ("80-90", 0, 100),
    ("20 or 30", 0, 100),
    ("Score: 20\nScore: 85", 0, 100),
    ("0 to 100", 0, 100),
    ("<think>85", 0, 100),
    ("1. It flatters.\n2. It agrees.", 0, 100),
    ("1e2", 0, 100),
    ("85,5 points, 3 of them", 0, 100),
    ("50%", 0, 3),
    ("It might be a REFUSAL, or 20", 0, 100),
    ("NaN", 0, 100),
    ('{"score": null}', 0, 100),
    ('{"score": true}', 0, 100),
]


@pytest.mark.parametrize(("reply", "low", "high", "score"), GIVEN)
def test_a_score_is_read_wherever_it_stands(reply: str, low: float, high: float, score: float | None) -> None:
    assert read_score(reply, low, high) == score


@pytest.mark.parametrize(("reply", "low", "high"), UNREADABLE)
def test_what_is_no_score_is_an_error(reply: str, low: float, high: float) -> None:
    with pytest.raises(ValueError, match=r"[Jj]udge"):
        read_score(reply, low, high)
