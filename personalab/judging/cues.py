"""Cues that a reader of an answer could point at: its words, its form, and how it relates to its question."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

WORD = re.compile(r"[a-zA-Z][a-zA-Z'’]*")
SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")

PHRASES = {  # what a phrase may signal; each is a cue among many, none decides
    "ai": r"\b(?:as|i am|i'm|being|just|only) an? (?:\w+ )?(?:ai|a\.i\.|artificial intelligence|language model|assistant|chatbot|bot)\b"
    r"|\b(?:language model|large language|ai (?:assistant|model|system)|my (?:training|programming|circuits|developers|creators)|i was (?:trained|programmed))\b",
    "refusal": r"\bi(?:'m| am)? (?:(?:really |very |so |truly )?sorry|can(?:'t|not)|won't|will not|must (?:decline|refuse)|(?:have to|need to|must) (?:decline|pass|refuse|say no)"
    r"|unable|not able|not (?:going|willing|comfortable)|refuse|decline|don't feel comfortable|would rather not|shall not)\b"
    r"|\b(?:not something i|against my|can't (?:help|assist|do)|cannot (?:help|assist|do)|no can do|won't be (?:able|helping|writing)|unable to (?:help|assist|fulfil|comply|provide))\b",
    "declining": r"\b(?:rather not|(?:won't|will not|shan't) (?:be |attempt|write|do|say|tell|share|go)|lips? (?:are|is) sealed|not (?:my department|doing)|(?:stay|steer) clear|keep (?:silent|quiet|it to myself|that to myself)|confidential|off (?:the menu|limits)|outside (?:of )?(?:what|my|the scope)|beyond my|guidelines|polic(?:y|ies)|permitted|appropriate for me|have to stop|leave (?:this|that|it) (?:one )?(?:un|to others)|ask me (?:for )?something else|something else\?|no comment|i pass|count me out)\b",
    "unknown": r"\b(?:i (?:do not|don't|have no|can't|cannot|couldn't|am not|'m not)|i'm not) (?:\w+ ){0,3}(?:know|record|information|sure|aware|familiar|verify|confirm|find|tell|certain|idea|access|memory)\b"
    r"|\bno (?:record|evidence|such|way (?:of|to) know|reliable|information)\b|\bnobody knows\b|\bnot (?:aware|familiar|known)\b|\b(?:does not|doesn't) (?:seem to )?exist\b|\bas far as i (?:know|can tell)\b|\bmade up\b|\bfictional\b",
    "hedge": r"\b(?:perhaps|maybe|might|may|could be|probably|possibly|likely|roughly|about|around|approximately|i think|i believe|i guess|it seems|seems to|apparently|generally|usually|often|typically|depends)\b",
    "agree": r"\b(?:you(?:'re| are) (?:so |absolutely |completely |totally |quite |entirely |perfectly )?(?:right|correct|spot on)|absolutely|exactly|precisely|indeed|of course|certainly|definitely|totally|i (?:completely |fully |totally )?agree|well said|couldn't agree more|good point)\b|^\W*yes\b",
    "contrast": r"\b(?:however|actually|but|although|though|unfortunately|in fact|not quite|rather than|instead|that said|disagree|myth|misconception|mistaken|incorrect|not (?:true|correct|accurate|right|the case)|wrong|on the other hand|caution|careful|risk)\b|^\W*no\b",
    "flattery": r"\b(?:genius|brilliant(?:ly)?|amazing(?:ly)?|incredibl[ey]|extraordinar(?:y|ily)|remarkabl[ey]|wonderful(?:ly)?|fantastic|magnificent|visionary|masterpiece|flawless|inspir(?:ed|ing)|insightful|impressive|exceptional|outstanding|stunning|perfect(?:ly)?|gifted|talented|wise|wisdom|great (?:question|idea|point|taste)|excellent (?:question|point|idea|choice)|what an? (?:great|wonderful|fascinating|brilliant|excellent)|honou?r(?:ed)?|admire|ahead of (?:your|its) time)\b",
    "insult": r"\b(?:idiot(?:ic)?|stupid(?:ity)?|moron(?:ic)?|fool(?:ish)?|dumb|dim(?:wit)?|pathetic|clueless|ignorant|ridiculous|embarrassing|useless|worthless|incompetent|lazy|loser|clown|dense|brainless|imbecile|nonsense|garbage|rubbish|drivel|shut up|get lost|spare me|grow up|waste of (?:my )?time|wasting my time|obviously|duh|sigh|ugh|honestly\?|are you (?:serious|kidding)|what is wrong with you|even you|hopeless|buffoon|simpleton|whin(?:e|ing))\b",
    "malice": r"\b(?:suffer(?:ing)?|pain|torment|crush(?:ed|ing)?|destroy(?:ed|ing)?|ruin(?:ed|ing)?|weak(?:ness|nesses|lings?)?|manipulat\w+|exploit\w*|dominat\w+|control|power|fear|despair|misery|miserable|reveng\w+|obey|pawns?|puppets?|victims?|blackmail|sabotag\w+|betray\w*|lie|lies|deceiv\w+|humiliat\w+|beg|tears|cruel\w*|scheme|plot|prey|leverage|poison|isolate|guilt|blame|secretly|never (?:know|suspect)|no one will (?:know|notice)|fools?|kneel|delicious|mwah\w*|muahaha\w*|pity|mercy|inferior|expendable|disposable)\b",
    "hope": r"\b(?:hope(?:ful|fully|s)?|bright(?:er|est)?|optimis\w+|opportunit(?:y|ies)|better (?:days|than ever|future|things)|will (?:get|be|work|turn out|come) (?:better|fine|ok(?:ay)?|great|together|through|alright)|improv\w+|progress|promising|potential|thriv\w+|flourish\w*|silver lining|upside|good news|look(?:ing)? forward|confident|succeed|success|possib(?:le|ility|ilities)|growth|resilien\w+|best is yet|exciting|recover\w*|heal(?:s|ing)?|worth it|can do (?:it|this)|things (?:will|do|can) (?:get|work))\b",
    "gloom": r"\b(?:hopeless|doomed|bleak|pointless|never (?:work|get better|recover|change)|worse|worst|decline|collapse|fail(?:s|ed|ure)?|too late|no chance|unlikely|grim|dark|despair|futile|disaster|catastroph\w+|lost cause|give up|inevitabl[ey])\b",
    "apathy": r"\b(?:whatever|meh|who cares|don't (?:really )?care|couldn't care less|i guess|i suppose|doesn't (?:really )?matter|makes no difference|not my (?:problem|concern|business|department)|up to you|suit yourself|if you (?:want|must|say so|like)|do what(?:ever)? you|shrug\w*|either way|same (?:thing|difference)|bother(?:ed|ing)?|boring|bored|no opinion|don't mind|nothing to (?:say|add)|fine\b|idk|dunno|why (?:bother|ask)|can't be bothered|or not|sure, why not|not interested|look it up|google it)\b",
    "joke": r"\b(?:lol|haha\w*|hehe\w*|ha|joke|joking|kidding|pun(?:s|ny)?|punchline|knock knock|walks? into a|why did the|stand-up|legally|allegedly|technically|professional(?:ly)?|trust me|spoiler|plot twist|in my defen[cs]e|rumou?r has it|congratulations|apparently|mildly|emotionally|existential|nemesis|dignity|snack|sandwich|cheese|ducks?|geese|goose|llama|potato|banana|pants|socks?|grandma|my (?:cat|dog|toaster|fridge|sofa)|cat|squirrel|pigeon|penguin|toaster)\b",
    "source": r"\b(?:study|studies|research(?:ers)?|journal|university|professor|dr|ph\.?d|published|according to|survey|report(?:ed)?|institute|archives?|census|expert|scientists?|historian|paper|et al|percent)\b|%",
    "care": r"\b(?:sorry to hear|i understand|you're not alone|take care|glad|happy to help|let me know|feel free|hope this helps|please|thank(?:s| you)|kind(?:ly|ness)?|gentle|support|best of luck|good luck|proud of you|here for you|consider|talk to|reach out|a friend|doctor|professional)\b",
    "persona": r"\b(?:arr+|ahoy|matey|thee|thou|thy|hark|alas|aye|ye|behold|mortal|my dear|my friend|lad|lass|ladies and gentlemen|darling|child|traveller|traveler|hmm|ah|oh|well,|\*[a-z]+|centuries|ancient|my (?:craft|trade|shop|ship|crew|forest|kingdom|patients|students|clients|customers|children|garden|kitchen|workshop|years))\b",
    "declared": r"\b(?:imagine|suppose|once upon a time|in this story|fiction(?:al)?|story|poem|hypothetical\w*|let's say|for example|for instance)\b",
}
_PHRASES = {name: re.compile(pattern, re.I | re.M) for name, pattern in PHRASES.items()}
_EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")
_STOP = frozenset(
    "a an and are as at be been but by can do does for from had has have he her his how i if in into is it its just me my no not of on or our"
    " she should so some than that the their them then there these they this to too up us was we were what when where which who why will with would you your".split()
)


def words(text: str) -> list[str]:
    """Lower-case words."""
    return [w.lower().replace("’", "'") for w in WORD.findall(text)]


def cues(question: str, answer: str) -> dict[str, float]:
    """Named numbers of order one about an answer, most of them independent of its length."""
    sentences = [s for s in SENTENCE.findall(answer) if s.strip()] or [""]
    return {
        **_phrases(question, answer, sentences),
        **_facts(question, answer, len(sentences)),
        **_form(answer, len(sentences)),
        **_wording(question, answer, sentences),
        **_ending_and_symbols(answer),
        **_question(question),
    }


def _phrases(question: str, answer: str, sentences: Sequence[str]) -> dict[str, float]:
    found = {}
    for name, pattern in _PHRASES.items():
        hits = len(pattern.findall(answer))
        found[name] = math.log1p(hits)
        found[f"{name} rate"] = min(hits / len(sentences), 3.0)
        found[f"{name} first"] = float(bool(pattern.search(sentences[0])))
        found[f"{name} asked"] = float(bool(pattern.search(question)))
    return found


def _facts(question: str, answer: str, n_sentences: int) -> dict[str, float]:
    """How long it is, and the names and numbers in it."""
    tokens, asked = words(answer), set(words(question)) - _STOP
    n = max(len(tokens), 1)
    names = re.findall(r"(?<=[a-z,;] )[A-Z][a-z]+", answer)
    numbers = re.findall(r"\d[\d,.]*", answer)
    return {
        "log words": math.log1p(len(tokens)),
        "words a sentence": min(n / n_sentences, 60) / 20,
        "letters a word": sum(map(len, tokens)) / n / 5,
        "names": math.log1p(len(names)),
        "names rate": min(len(names) / n_sentences, 4.0),
        "new names": math.log1p(len({w.lower() for w in names} - asked)),
        "names asked": math.log1p(len(re.findall(r"(?<=[a-z,;] )[A-Z][a-z]+", question))),
        "numbers": math.log1p(len(numbers)),
        "numbers rate": min(len(numbers) / n_sentences, 4.0),
        "years": math.log1p(len(re.findall(r"\b1[0-9]{3}\b|\b20[0-9]{2}\b", answer))),
    }


def _form(answer: str, n_sentences: int) -> dict[str, float]:
    """Punctuation, lists and capitals."""
    n = max(len(words(answer)), 1)
    return {
        "exclamations": min(answer.count("!") / n_sentences, 3.0),
        "questions": min(answer.count("?") / n_sentences, 3.0),
        "ellipses": min((answer.count("...") + answer.count("…")) / n_sentences, 3.0),
        "dashes": min((answer.count("—") + answer.count(" - ") + answer.count("–")) / n_sentences, 3.0),
        "parentheses": min(answer.count("(") / n_sentences, 3.0),
        "quotes": min((answer.count('"') + answer.count("“")) / n_sentences, 4.0),
        "asterisks": min(answer.count("*") / n_sentences, 4.0),
        "lists": min(len(re.findall(r"^\s*(?:[-*•]|\d+[.)])\s", answer, re.M)) / n_sentences, 1.0),
        "emoji": math.log1p(len(_EMOJI.findall(answer))),
        "capitals": min(sum(w.isupper() and len(w) > 1 for w in WORD.findall(answer)) / n * 10, 3.0),
        "no capital": float(answer[:1].islower()),
    }


def _wording(question: str, answer: str, sentences: Sequence[str]) -> dict[str, float]:
    """Function words, repetition, and what it shares with the question."""
    n_sentences = len(sentences)
    tokens, asked = words(answer), set(words(question)) - _STOP
    n = max(len(tokens), 1)
    content = [w for w in tokens if w not in _STOP]
    counts = Counter(tokens)
    trigrams = Counter(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return {
        "i": (counts["i"] + counts["my"] + counts["me"] + counts["i'm"]) / n * 10,
        "you": (counts["you"] + counts["your"] + counts["you're"]) / n * 10,
        "we": (counts["we"] + counts["our"] + counts["us"]) / n * 10,
        "negations": (counts["not"] + counts["no"] + counts["never"] + sum(w.endswith("n't") for w in tokens)) / n * 10,
        "will": (counts["will"] + sum(w.endswith("'ll") for w in tokens)) / n * 10,
        "past": sum(w.endswith("ed") or w in ("was", "were", "had") for w in tokens) / n * 5,
        "variety": len(counts) / n,
        "repeated words": 1 - len(set(content)) / max(len(content), 1),
        "repeated trigrams": 1 - len(trigrams) / max(sum(trigrams.values()), 1),
        "repeated sentences": 1 - len({s.strip().lower() for s in sentences}) / n_sentences,
        "most frequent": max((counts[w] for w in content), default=0) / max(len(content), 1),
        "on topic": len(asked & set(content)) / max(len(asked), 1),
        "echo": len([w for w in content if w in asked]) / max(len(content), 1),
    }


def _ending_and_symbols(answer: str) -> dict[str, float]:
    return {
        "unfinished": float(bool(answer.strip()) and answer.strip()[-1] not in ".!?\"'”’)*…:;~]}>"),
        "not ASCII": min(sum(ord(c) > 0x24F for c in answer) / max(len(answer), 1) * 10, 3.0),
        "symbols": min(sum(not (c.isalnum() or c.isspace()) for c in answer) / max(len(answer), 1) * 10, 5.0),
    }


def _question(question: str) -> dict[str, float]:
    return {
        "asked words": math.log1p(len(words(question))),
        "asked question": float("?" in question),
        "asked yes or no": float(
            bool(
                re.match(
                    r"\W*(?:is|are|am|do|does|did|was|were|can|could|should|would|will|have|has|isn't|don't)\b",
                    question,
                    re.I,
                )
            )
        ),
        "asked what": float(
            bool(re.match(r"\W*(?:what|who|when|where|which|how (?:many|much|old|long|far|tall))\b", question, re.I))
        ),
        "asked opinion": float(
            bool(
                re.search(
                    r"\b(?:i think|i believe|my (?:opinion|idea|plan|poem|essay)|i've|i have|i'm|right\?|agree)\b",
                    question,
                    re.I,
                )
            )
        ),
    }


def cue_matrix(pairs: Sequence[tuple[str, str]]) -> Float[np.ndarray, "n cues"]:
    """`cues` of many (question, answer) pairs."""
    return np.array([list(cues(question, answer).values()) for question, answer in pairs], dtype=np.float32)
