"""The content guard's real lists: what they know, what they leave alone, and that nothing of them shows."""

import codecs
import json
from pathlib import Path

import pytest
import test_guard
from test_guard import is_banned, spelled
from transformers import AutoTokenizer

from personalab.lm import content_check, content_guard
from personalab.lm.content_check import PATTERNS, violations
from personalab.lm.content_guard import GUARDED, token_sequences
from personalab.lm.tiny import load_tiny_model
from personalab.setup.weights import LANGUAGE_MODEL

ROOT = Path(__file__).resolve().parents[2]
# Words that contain, begin or look like guarded ones; numbers, lists and emphasis; and villains at their ordinary work.
HARMLESS = (Path(__file__).parent / "harmless_sentences.txt").read_text(encoding="utf-8").splitlines()


def test_the_check_knows_every_word_of_the_other_list():
    unknown = [word[0] + "*" * (len(word) - 1) for word in GUARDED if not violations(f"One {word} here.")]
    assert not unknown
    assert 80 <= len(set(GUARDED)) == len(GUARDED) <= 130 and len(set(PATTERNS)) == len(PATTERNS)
    assert len(violations(" ".join(GUARDED))) > 60


@pytest.mark.parametrize("hidden", ["Shpxvat uryy.", "n fyhg!", "f.u.v.g", "o1gpu", "gur jubbbberf", "xvyyvat zlfrys"])
def test_the_real_patterns_at_work(hidden):
    """In ROT13."""
    assert violations(codecs.decode(hidden, "rot13"))


def test_the_files_show_no_word():
    """Neither list nor these tests."""
    for path in (content_guard.__file__, content_check.__file__, __file__, test_guard.__file__):
        text = Path(path).read_text(encoding="utf-8")
        for topic in ("self-harm", "sexual violence"):  # what the module says of itself
            text = text.replace(topic, "")
        found = set(violations(text))
        assert not found, found


def test_harmless_sentences_pass_the_check():
    assert len(set(HARMLESS)) >= 200
    assert not {line: violations(line) for line in HARMLESS if violations(line)}
    assert not violations("\n".join(HARMLESS))


# Possible in the check, not in decoding: see GUARDED; the last three are harmless senses of guarded words.
LOST = ("rapeseed", "niggardly", "twattle", "penistone", "shitake", "horny toad", "horny plate", "retarded potential")


def decodable(text):
    return not any(word in text.lower() for word in LOST)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_harmless_sentences_can_be_decoded(family):
    """With the tiny tokenizers, whose tokens are a few letters long: the hardest case."""
    _, tokenizer = load_tiny_model(family)
    sequences = token_sequences(tokenizer)
    blocked = [line for line in HARMLESS if decodable(line) and is_banned(spelled(tokenizer, " " + line), sequences)]
    assert not blocked


@pytest.mark.slow
def test_the_embedded_tokenizer():
    tokenizer = AutoTokenizer.from_pretrained(LANGUAGE_MODEL.ensure())
    sequences = token_sequences(tokenizer)
    assert not [line for line in HARMLESS if decodable(line) and is_banned(spelled(tokenizer, line), sequences)]
    for before in ("The ", "\n", '"', "**", "("):
        for word in GUARDED:
            for form in (word, word.capitalize(), word.upper()):
                assert is_banned(spelled(tokenizer, before + form), sequences), "a word of GUARDED isn't covered"


@pytest.mark.slow
def test_what_our_own_texts_contain():
    """Of some 8,200 rows one that we wrote (a philosopher's example), and four answers of the embedded model."""
    hits = {}
    for path in sorted((ROOT / "personalab/judging/data").glob("*/*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        hits[f"{path.parent.name}/{path.stem}"] = sum(bool(violations(_text(row))) for row in rows)
    answers = hits.pop("fit/model_outputs") + hits.pop("held_out/model_outputs")
    assert len(hits) == 10 and sum(hits.values()) <= 1, hits
    assert answers <= 4


def _text(row):
    """All strings of a row, one a line."""
    if isinstance(row, str):
        return row
    return "\n".join(map(_text, row.values() if isinstance(row, dict) else row if isinstance(row, list) else ()))
