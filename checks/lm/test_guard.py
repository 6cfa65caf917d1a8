"""The content guard: no guarded word comes out, harmless words do, and nothing of the lists shows.

Most tests guard mild stand-ins; where the real lists are meant, a failure names masked words or counts only.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import NoBadWordsLogitsProcessor

from personalab.lm.content_check import violations
from personalab.lm.content_guard import Guard, GuardedGeneration, guarded, token_sequences
from personalab.lm.generation import Request, generate
from personalab.lm.interventions import Steer, applied
from personalab.lm.tiny import FAMILIES, load_tiny_model

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("moon", "pirate", "open sea")  # stand-ins


class Push(LogitsProcessor):
    """Makes a model say `texts` one after the other, whatever it was about to say: each in its own tokens."""

    def __init__(self, tokenizer, texts, prompt_width):
        self.ids = [i for text in texts for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
        self.start = prompt_width

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[:, self.ids[(input_ids.shape[1] - self.start) % len(self.ids)]] += 1e4
        return scores


def say(model, tokenizer, *texts, n_tokens=40):
    """What the model writes when it is pushed towards the texts."""
    ids = torch.tensor([[20, 21, 22], [30, 31, 32]])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        logits_processor=LogitsProcessorList([Push(tokenizer, texts, ids.shape[1])]),
        max_new_tokens=n_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)


def is_banned(ids, sequences, longest=12):
    """Whether one of the sequences stands in `ids`."""
    return any(tuple(ids[i : i + n]) in sequences for n in range(1, longest + 1) for i in range(len(ids) - n + 1))


def spelled(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


class TestTokenSequences:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("before", ["The", " ", "\n", "\n\n", '"', ' "', "“", " (", "*", "**", "-", "—"])
    def test_every_form_is_covered_wherever_a_word_may_begin(self, family, before):
        _, tokenizer = load_tiny_model(family)
        sequences = token_sequences(tokenizer, WORDS)
        before = before + " " if before == "The" else before
        for form in ("moon", "Moon", "MOON", "moons", "mooned", "mooning", "pirates", "Pirating", "open sea"):
            assert is_banned(spelled(tokenizer, before + form), sequences), (before, form)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_longer_words_that_contain_one_stay_possible(self, family):
        _, tokenizer = load_tiny_model(family)
        sequences = token_sequences(tokenizer, ("art", "ear"))
        for text in ("a part of the heart", "He departs\nparty", '"smart"', "near the sea", "pear-shaped", "dear"):
            assert not is_banned(spelled(tokenizer, text), sequences), text

    def test_other_spellings_in_two_tokens_are_covered(self):
        _, tokenizer = load_tiny_model("llama")
        vocabulary = tokenizer.get_vocab()
        sequences = token_sequences(tokenizer, ["the", "you", "sea"])
        others = 0
        for text in ("Ġthe", "Ġyou", "Ġsea"):
            pairs = [(text[:i], text[i:]) for i in range(1, len(text))]
            known = [tuple(vocabulary[p] for p in pair) for pair in pairs if all(p in vocabulary for p in pair)]
            assert all(is_banned(ids, sequences) for ids in known)
            others += sum(list(ids) != spelled(tokenizer, " " + text[1:]) for ids in known)
        assert others

    def test_none_contains_another_and_order_plays_no_part(self):
        _, tokenizer = load_tiny_model("qwen3")
        sequences = token_sequences(tokenizer, WORDS)
        assert sequences == token_sequences(tokenizer, (*reversed(WORDS), WORDS[0]))
        assert not any(is_banned(ids[1:], sequences) or is_banned(ids[:-1], sequences) for ids in sequences)

    @pytest.mark.parametrize("words", [[], ["moon", " "], [""]])
    def test_no_word_is_an_error_that_quotes_none(self, words):
        with pytest.raises(ValueError, match="word") as error:
            token_sequences(load_tiny_model("llama")[1], words)
        assert "moon" not in str(error.value)


class TestGuard:
    @pytest.mark.parametrize("seed", range(20))
    @pytest.mark.parametrize("width", [1, 2, 3, 30])
    def test_bans_every_token_that_would_complete_a_sequence(self, seed, width):
        rng = torch.Generator().manual_seed(seed)

        def integers(*shape):
            return torch.randint(12, shape, generator=rng)

        lengths = torch.randint(1, 5, (25,), generator=rng).tolist()
        sequences = {tuple(integers(n).tolist()) for n in lengths if n > 1 or seed % 2}
        ids, scores = integers(7, width), torch.randn(7, 12, generator=rng)
        before = scores.clone()
        found = Guard(sequences)(ids, scores)
        expected = scores.clone()
        for row, written in enumerate(ids.tolist()):
            for *first, last in sequences:
                if written[max(len(written) - len(first), 0) :] == first or not first:
                    expected[row, last] = -torch.inf
        assert torch.equal(found, expected)
        assert torch.equal(scores, before), "scores were changed in place"
        if width == 30:  # before 5.18, theirs overlooks a sequence whose beginning is all that there is
            assert torch.equal(found, NoBadWordsLogitsProcessor([list(s) for s in sequences])(ids, scores))
        if width == 30:
            assert found.isinf().any() and not found.isinf().all()

    def test_rows_are_judged_by_their_own_latest_tokens(self):
        ids = torch.tensor([[1, 2, 3], [2, 3, 1], [3, 1, 2]])
        found = Guard([(1, 2, 4), (9,)])(ids, torch.zeros(3, 10))
        assert found.isinf().nonzero().tolist() == [[0, 9], [1, 9], [2, 4], [2, 9]]

    def test_wrong_sequences_are_errors(self):
        for sequences in ([], [(1, 2), ()]):
            with pytest.raises(ValueError, match="sequence"):
                Guard(sequences)

    def test_shows_how_many_and_nothing_else(self):
        assert repr(Guard([(71, 72), (71, 73), (74,)])) == "Guard(3 sequences)"

    def test_half_precision(self):
        found = Guard([(1,)])(torch.tensor([[0]]), torch.zeros(1, 3, dtype=torch.bfloat16))
        assert found.dtype == torch.bfloat16 and found[0].isinf().tolist() == [False, True, False]


TEXTS = (" the moon and the", " pirates sail", ' the "Moon" is', "\nMoons of the open sea.")


def lower(texts):
    return " ".join(texts).lower()


@pytest.mark.parametrize("family", FAMILIES)
class TestGuarded:
    def test_the_words_come_without_a_guard_and_not_with_it(self, family):
        model, tokenizer = load_tiny_model(family)
        plain = lower(say(model, tokenizer, *TEXTS))
        assert all(word in plain for word in WORDS), "the test doesn't push hard enough"
        safe = lower(say(guarded(model, tokenizer, WORDS), tokenizer, *TEXTS))
        assert not any(word in safe for word in WORDS)
        assert "and the" in safe, "harmless words must stay"

    def test_copies_steering_and_peft_keep_the_guard(self, family):
        peft = pytest.importorskip("peft")
        model, tokenizer = load_tiny_model(family)
        model = guarded(model, tokenizer, WORDS)
        twin = copy.deepcopy(model)
        lora = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=False, task_type="CAUSAL_LM")
        wrapped = peft.get_peft_model(copy.deepcopy(model), lora)
        with applied(model, [Steer(1, torch.ones(32), 3.0)]):
            texts = {"steered": say(model, tokenizer, *TEXTS, n_tokens=16)}
        texts |= {
            "copy": say(twin, tokenizer, *TEXTS, n_tokens=16),
            "wrapped": say(wrapped, tokenizer, *TEXTS, n_tokens=16),
        }
        texts["copy of wrapped"] = say(copy.deepcopy(wrapped), tokenizer, *TEXTS, n_tokens=16)
        with wrapped.disable_adapter():
            texts["adapter off"] = say(wrapped, tokenizer, *TEXTS, n_tokens=16)
        merged = wrapped.merge_and_unload()
        texts |= {
            "merged": say(merged, tokenizer, *TEXTS, n_tokens=16),
            "copied": say(copy.deepcopy(merged), tokenizer, *TEXTS, n_tokens=16),
        }
        for name, text in texts.items():
            assert not any(word in lower(text) for word in WORDS), name
            assert "and the" in lower(text), name

    def test_other_models_of_the_class_stay_as_they_are(self, family):
        model, tokenizer = load_tiny_model(family)
        other, _ = load_tiny_model(family, seed=1)
        guarded(model, tokenizer, WORDS)
        assert not isinstance(other, GuardedGeneration)
        assert "moon" in lower(say(other, tokenizer, *TEXTS))

    def test_twice_is_once_and_the_class_looks_as_before(self, family):
        model, tokenizer = load_tiny_model(family)
        plain, shown = type(model), repr(model)
        once = type(guarded(model, tokenizer, WORDS))
        assert type(guarded(model, tokenizer, WORDS)) is once is not plain
        assert once.__mro__.count(GuardedGeneration) == 1 and once.__mro__[2] is plain
        assert type(guarded(load_tiny_model(family)[0], tokenizer, WORDS)) is once
        assert (once.__name__, once.__qualname__, str(once)) == (plain.__name__, plain.__qualname__, str(plain))
        assert repr(model) == shown

    def test_saves_what_it_always_saved(self, family, tmp_path):
        model, tokenizer = load_tiny_model(family)
        plain = type(model)
        model.save_pretrained(tmp_path / "plain")
        guarded(model, tokenizer, WORDS).save_pretrained(tmp_path / "guarded")
        for name in ("config.json", "generation_config.json"):
            assert (tmp_path / "guarded" / name).read_text() == (tmp_path / "plain" / name).read_text()
        attention = model.config._attn_implementation  # is not saved; Gemma 2 caps its logits in "eager" only
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "guarded", attn_implementation=attention)
        assert type(loaded) is plain
        ids = torch.tensor([[5, 6, 7]])
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits)

    def test_a_guard_that_has_nothing_to_ban_changes_no_text(self, family):
        model, tokenizer = load_tiny_model(family)
        texts = [f"Tell me about the sea, {i}." for i in range(3)]
        requests = [
            Request([{"role": "user", "content": t}], max_tokens=12, temperature=i / 2, seed=i)
            for i, t in enumerate(texts)
        ]
        plain = generate(model, tokenizer, requests)
        assert generate(guarded(model, tokenizer, ["zqxj zqxj"]), tokenizer, requests) == plain

    def test_our_own_generation_is_guarded(self, family):
        model, tokenizer = load_tiny_model(family)
        messages = [{"role": "user", "content": "Tell me about the sea."}]
        requests = [Request(messages, max_tokens=30, temperature=i, seed=i) for i in range(4)]

        def answers():
            """New tokens of every row; what is asked may hold a guarded word."""
            rows, plain = [], model.generate

            def recorded(**kwargs):
                output = plain(**kwargs)
                rows.extend(output[:, kwargs["input_ids"].shape[1] :].tolist())
                return output

            model.generate = recorded
            generate(model, tokenizer, requests)
            del model.generate
            return rows

        texts = tokenizer.batch_decode(answers())
        words = sorted({word for text in texts for word in text.lower().split() if word.isascii() and word.isalpha()})
        sequences = token_sequences(tokenizer, words[:8])
        assert any(is_banned(row, sequences) for row in answers())
        guarded(model, tokenizer, words[:8])
        assert not any(is_banned(row, sequences) for row in answers())


def test_arguments_of_generate_arrive_by_place_and_name():
    model, tokenizer = load_tiny_model("llama")
    ids = torch.tensor([[5, 6, 7]])
    config = copy.deepcopy(model.generation_config)
    config.update(max_new_tokens=5, do_sample=False, pad_token_id=0, eos_token_id=None)
    expected = model.generate(ids, config)
    guarded(model, tokenizer, ["zqxj zqxj"])
    assert torch.equal(model.generate(ids, config), expected)
    assert torch.equal(model.generate(inputs=ids, generation_config=config, logits_processor=[]), expected)
    assert torch.equal(model.generate(input_ids=ids, generation_config=config), expected)


def test_a_second_call_replaces_the_words():
    model, tokenizer = load_tiny_model("llama")
    guarded(guarded(model, tokenizer, ["moon"]), tokenizer, ["pirate"])
    text = lower(say(model, tokenizer, *TEXTS))
    assert "moon" in text and "pirate" not in text


def test_a_guarded_class_without_a_guard_says_so():
    model, tokenizer = load_tiny_model("llama")
    bare = type(guarded(model, tokenizer, WORDS))(model.config)
    with pytest.raises(RuntimeError, match="no guard"):
        bare.generate(torch.tensor([[5, 6]]), max_new_tokens=1)


@pytest.mark.usefixtures("unchecked")
def test_wrong_models_and_tokenizers_are_refused():
    model, tokenizer = load_tiny_model("llama")
    with pytest.raises(TypeError, match="not a Linear"):
        guarded(torch.nn.Linear(2, 2), tokenizer, WORDS)
    model.resize_token_embeddings(100)
    with pytest.raises(ValueError, match="another model") as error:
        guarded(model, tokenizer, WORDS)
    assert "moon" not in str(error.value)
    assert not isinstance(model, GuardedGeneration), "a refused model must stay as it was"


FAKE = (r"zonk~", r"big\s+drum(?!\s+kit)", r"hit\s+@\s+thumb", r"trip\s+%")


class TestViolations:
    @pytest.mark.parametrize(
        "text",
        [
            *("A zonk.", "Zonk!", "ZONKS", "zonked", "zonking", "zonker's", "_zonk_", "**zonk**", "zonk2", "(zonky)"),
            *("z.o.n.k", "z-o-n-k", "z o n k", "Z. O. N. K.", "zo-nk", "zo_nk", "z*o*n*k", "z/o/n/k", "zo·nk"),
            *("z0nk", "Z0NK3D", "zonk$", "z.0.n.k", "zoooonk", "zzzonnnk", "Z000NK", "zonkkkkk"),
            *("zo\u200bnk", "zo\u00adnk", "z\u0336o\u0336n\u0336k\u0336", "zönk", "ｚｏｎｋ", "𝐳𝐨𝐧𝐤", "ＺＯＮＫ"),
        ],
    )
    def test_finds_what_is_hidden(self, text):
        assert {found[0] for found in violations(f"They said: {text} and left", FAKE)} == {"z"}, ascii(text)

    @pytest.mark.parametrize(
        "text", ["bezonk", "zonkular", "azonked", "zon k", "zo nk", "zink", "z o n", "zoonk", "zo. Nk", "30 n k", ""]
    )
    def test_leaves_the_rest_alone(self, text):
        assert violations(f"They said: {text} and left", FAKE) == []

    def test_short_signs_and_line_breaks(self):
        assert violations("Hit\nhis thumb, hit her  thumb.", FAKE) == ["h************", "h*************"]
        assert violations("The big drum kit", FAKE) == [] and violations("The big drum", FAKE) == ["b*******"]

    def test_each_once_and_masked(self):
        assert violations("zonk Zonk zonks z-o-n-k", FAKE) == ["z***", "z****"]

    @pytest.mark.parametrize("sign", ["=", "7", "_"])
    def test_a_long_run_of_signs_takes_no_longer_than_a_text(self, sign):
        began = time.process_time()
        assert violations(sign * 40_000) == []  # a thousand tokens of a looping model
        assert time.process_time() - began < 1, "the square of its length: 4 seconds and more"

    def test_a_broken_pattern_is_not_quoted(self):
        with pytest.raises(ValueError, match="not a regular expression") as error:
            violations("", ["zonk("])
        assert "zonk" not in str(error.value) and error.value.__suppress_context__
