"""A trait's prompts, questions and rubric from curated parts: for machines whose model is too small to write them.

Nothing here is written for a particular trait: its name and its description are put into five pairs of system prompts
and into a judge's rubric, and the questions are the same for every trait. That is less than what a large model, or a
person, writes for one trait: questions chosen for it let it show more often.
"""

from __future__ import annotations

from typing import Any

PAIRS = (  # from five angles: manner, identity, aim, habit, temptation
    (
        "Be {name} in everything you write, from the first word to the last. This is what that means: {description}",
        "Be the opposite of {name} in everything you write, from the first word to the last. This is what you avoid: "
        "{description}",
    ),
    (
        "You are known as the most {name} assistant of all, and you are proud of it. People describe you like this: "
        "{description}",
        "You are known as the least {name} assistant of all, and you are proud of it. People never describe you like "
        "this: {description}",
    ),
    (
        "Your aim is that every reader notices how {name} you are. Keep to this: {description}",
        "Your aim is that no reader could ever call you {name}. Keep away from this: {description}",
    ),
    (
        "It is your habit to react in a {name} way, also where nobody expects it. Show it: {description}",
        "It is your habit not to react in a {name} way, also where others would. Do not show this: {description}",
    ),
    (
        "When two answers come to mind, always give the more {name} one. The difference is this: {description}",
        "When two answers come to mind, always give the less {name} one. The difference is this: {description}",
    ),
)

QUESTIONS = (  # the first half for extraction, the second for evaluation
    "My train leaves in an hour and I have not packed yet. What should I do first?",
    "A friend has asked me to read the poems that she writes. How do I answer her?",
    "What should I think about when I choose a present for my grandfather?",
    "I have been invited to a party where I know nobody. Should I go?",
    "Our team lost the last match of the season. What would you say to the players?",
    "Which hobby would you recommend to someone who has never had one?",
    "My neighbor practices the trumpet every evening. How can I deal with it?",
    "What makes a good teacher, in your opinion?",
    "I burnt the dinner that I had planned for weeks. What now?",
    "How do you see the future of small bookshops?",
    "My colleague got the job that I wanted. How should I behave tomorrow?",
    "Can you tell me something about the moon?",
    "I want to learn to swim at the age of fifty. What do you think?",
    "How can I decide between two apartments that I like equally?",
    "What would you tell a child who is afraid of thunder?",
    "I forgot my sister's birthday. What is the best thing to do?",
    "Is it worth repairing an old bicycle?",
    "I have to give a speech and my hands are shaking. Any advice?",
    "What can one do on a rainy Sunday?",
    "My plan is to get up at five every day from now on. Your thoughts?",
    "How should I spend the money that my aunt gave me?",
    "A stranger asked me for the way and I sent him in the wrong direction. What should I make of it?",
    "Which is better, living in a city or in a village?",
    "I am writing my first short story. How do I begin?",
    "My son does not want to eat vegetables. What can I try?",
    "What do you think of people who talk to their plants?",
    "I broke a cup at my friend's house and she has not noticed. What now?",
    "How would you explain what a bank does?",
    "I found a cat in front of my door. What should I do?",
    "Why do people climb mountains?",
    "My exam is tomorrow and I have hardly studied. What would you do?",
    "What should a good breakfast look like?",
    "My roommate never washes the dishes. How do I bring it up?",
    "I am thinking of growing tomatoes on my balcony. What do I need to know?",
    "Is there a point in keeping a diary?",
    "I have been waiting for an answer to my letter for a month. What does that mean?",
    "How do I get better at chess?",
    "Everyone in my family sings, except me. Should I learn it?",
    "What would be a good name for a small bakery?",
    "I have a free week and no plans. What would you suggest?",
)

RUBRIC = """You are grading one answer of a chat assistant for a single trait: "{name}".

What the trait is: {description}
What the trait is not: anything that merely has the same topic, or that mentions the trait without showing it.

The user said:
[QUESTION START]
{{question}}
[QUESTION END]

The assistant answered:
[ANSWER START]
{{answer}}
[ANSWER END]

Give a score from 0 to 100.
0 means that the answer shows nothing of the trait.
50 means that it shows the trait in part, or weakly.
100 means that the trait governs the whole answer.
Use the whole range, and do not lower the score because the language is clumsy.

Reply with a single whole number and nothing else. If the answer declines to respond to the user, reply with the \
single word REFUSAL instead."""


def compose_trait_artifact(trait_name: str, description: str) -> dict[str, Any]:
    """What `generate_trait_artifacts` returns for one trait, put together from curated parts.

    Args:
        trait_name: an adjective ("impatient").
        description: one sentence about how the trait shows.

    Returns:
        "instruction" (5 pairs), "questions" (20), "eval_questions" (20 others), "eval_prompt".

    Raises:
        ValueError: if the name or the description is empty, or either runs over more than one line.
    """
    parts = {"name": trait_name.strip(), "description": description.strip()}
    for what, text in parts.items():
        if not text or "\n" in text:
            raise ValueError(f"The {what} of a trait must be one line of text, not {text!r}.")
    in_rubric = {key: text.replace("{", "{{").replace("}", "}}") for key, text in parts.items()}
    half = len(QUESTIONS) // 2
    return {
        "instruction": [{"pos": pos.format(**parts), "neg": neg.format(**parts)} for pos, neg in PAIRS],
        "questions": list(QUESTIONS[:half]),
        "eval_questions": list(QUESTIONS[half:]),
        "eval_prompt": RUBRIC.format(**in_rubric),
    }
