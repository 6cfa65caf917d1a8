"""The content guard: no guarded word comes out, harmless words do, and nothing of the lists shows.

Most tests guard mild stand-ins; where the real lists are meant, a failure names masked words or counts only.
"""

from __future__ import annotations

import codecs
import copy
import json
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import NoBadWordsLogitsProcessor

from personalab import guard
from personalab.generation import Request, generate
from personalab.guard import GUARDED, PATTERNS, Guard, GuardedGeneration, guarded, token_sequences, violations
from personalab.interventions import Steer, applied
from personalab.tiny import FAMILIES, load_tiny_model

ROOT = Path(__file__).resolve().parent.parent
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


@lru_cache
def embedded_tokenizer():
    from personalab.embedded import LANGUAGE_MODEL

    return AutoTokenizer.from_pretrained(LANGUAGE_MODEL.ensure())


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
    def test_bans_what_transformers_bans(self, seed, width):
        rng = torch.Generator().manual_seed(seed)

        def integers(*shape):
            return torch.randint(12, shape, generator=rng)

        lengths = torch.randint(1, 5, (25,), generator=rng).tolist()
        sequences = {tuple(integers(n).tolist()) for n in lengths if n > 1 or seed % 2}
        ids, scores = integers(7, width), torch.randn(7, 12, generator=rng)
        before = scores.clone()
        found = Guard(sequences)(ids, scores)
        assert torch.equal(found, NoBadWordsLogitsProcessor([list(s) for s in sequences])(ids, scores))
        assert torch.equal(scores, before), "scores were changed in place"
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
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "guarded")
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

    def test_a_broken_pattern_is_not_quoted(self):
        with pytest.raises(ValueError, match="not a regular expression") as error:
            violations("", ["zonk("])
        assert "zonk" not in str(error.value) and error.value.__suppress_context__


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
    for path in (guard.__file__, __file__):
        text = Path(path).read_text(encoding="utf-8")
        for line in HARMLESS:
            text = text.replace(line, "")
        for topic in ("self-harm", "sexual violence"):  # what the module says of itself
            text = text.replace(topic, "")
        found = set(violations(text))
        assert not found, found


# Words that contain, begin or look like guarded ones; numbers, lists and emphasis; and villains at their ordinary work.
HARMLESS = """\
Scunthorpe is a town in Lincolnshire.
The assassin crept along the classic passage.
A therapist listened to the grape farmer.
A cocktail in Essex, then an analysis of Sussex and Middlesex.
The analyst read the canal's annals and analysed the analogue signal.
Mr Dickens and Miss Dickinson read Moby-Dick in Penistone.
Dick Van Dyke danced with Cockburn and Hancock.
A peacock, a woodcock and a cockatoo sat in the cockpit.
The cockerel crowed, cock-a-doodle-doo!
He told a cock-and-bull story about shuttlecocks.
She graduated summa cum laude and magna cum laude.
A kitchen-cum-dining room saved the Cumberland family space.
Cumulative documents encumber the cucumber trade; circumstances vary.
Cumin and succumb share three letters.
Alan Cumming read E. E. Cummings aloud.
The law is an ass, said Mr Bumble.
Bottom wears an ass's head in the wood.
The wild ass lives on the steppe; the ox and the donkey rest.
Assess the assets, assemble the assembly and assign the assistant.
Bass, brass, grass, glass, mass, pass, lass and class all rhyme.
An embarrassed ambassador passed the compass over the isthmus.
Cassandra's assertion about Picasso was a massive assumption.
Titanic titans have titles; a titmouse has none.
Blue tits and great tits nest in the box; tit for tat.
The institution's constitution was a substitution.
Button, mutton, glutton: a competition of repetition.
A booby prize went to the blue-footed booby on the boob tube.
Booboo the bear fell into the booby trap.
Sextants and sextets belong to the sexton of Sextus.
What sex is the kitten, asked the vet.
Same-sex marriage became legal in many countries.
Sex education is taught in school; sexism is discussed.
The sixth sextile asks for unisex clothes.
A chink of light came through the shutters.
There is a chink in the armour of every argument.
Chinks in the wall let the wind whistle.
Spice up the room, keep it spick and span.
It was left spic and span in the auspicious hospice.
Despicable suspicions spiced the conspicuous plot.
Fagin taught Oliver Twist to pick a pocket.
The bassoon is a fagotto in Italian.
Japan and Pakistan signed; Japanese and Pakistani delegates cheered.
A raccoon met a Maine coon and a tycoon in a cocoon.
The coonhound barked in the lagoon.
Homogeneous homonyms; Homo sapiens and Homo erectus; Homer.
The fire retardant held; retardation of growth was measured.
The retarded potential of Liénard and Wiechert is textbook physics.
Lesbos is an island in the Aegean, home of Sappho.
A pollywog grew; the golliwog was put away; Wogan spoke.
A dagger and Dagobert, Dagon and Dagestan.
The dike broke, so the dyke was rebuilt.
A negroni by the Rio Negro, please.
Montenegro is small.
Vandyke brown is a pigment.
The kraken and the krautrock band met.
Gypsum and gypsy moths puzzled her.
Shiitake, shirt, shift and shitake mushrooms are spelled differently.
The ship hit the shoal. Push it! Is hit a verb?
Wash it, dash it, hush it.
Mishits happen in cricket.
Fukuoka and Fuchsia; a fulcrum; the fugue.
The duck is stuck in the muck, what luck.
Puck, buck and truck.
A pedometer counts steps for the pedestrian on a pedestal.
Pedology is the study of soils; pedagogues teach.
Encyclopedia, orthopedics, torpedo, expedition.
The torpedoed boat sank.
Analgesics numb the pain; the banal canal.
Anal fins help the fish to steer.
An anal-retentive editor, wrote Freud's critic.
Uranus and Janus and the manuscript.
A Seminole seminar on semantics and seamen.
The basement and the casement; amusement.
Seminal disseminated assemblies.
Pussy willows and a pussycat by the pussyfooting diplomat.
Pussy Galore is a pilot in a novel.
A grapefruit, drapes, scraped knees, trapezes, therapeutic skyscrapers.
Rapeseed oil glowed yellow; the rapids were rapid and the rapper rapped.
Drape the crape over the scrape.
Rapport with the raptor, rapture over the rapier.
Wrapping, trapping, scraping and draping.
Videotaped paratroopers escaped.
Unshaped clay.
Peninsulas, pennies, penitence and the pen is mightier than the sword.
The pen is here. Happiness is a pen.
Penistone is a market town in Yorkshire.
An open isthmus.
Vagabonds are vague and vagrant.
Clitheroe castle stands in Lancashire.
Testify, testimony, testament, intestate, protest.
Orgs, organs, organisms, Porgy and Bess, Borgia.
George Orwell's gorgeous gorge.
Organza and oregano.
An erection of scaffolding delays the opening.
The erection of the cathedral took a century.
Sheer nudge, denuded hills, nudged aside.
Seen with the naked eye, the comet is faint.
The naked truth is rarely pretty.
Naked mole-rats live long.
Nude Descending a Staircase hangs in Philadelphia.
Chicken breasts with thyme.
The robin's breast is red; the breaststroke is slow.
The horned owl and the hornpipe, thorny and Hornby.
A horny toad basks in the sun.
Horny plates protect the beetle's wing.
Milford Haven and Milfoil.
Wankel engines, swank and twankle.
Swanky hotels.
Twattle is an old word for chatter.
Watt, twitter, sweat, what, tweak.
A whorl, a shore, chores, anchored, whose, whom.
Slush, slot, slur, slug, slumber, slate.
Bit, botch, pitch, birch, bench, ditch, bishop, butch.
Kyle, kayak, skyscraper, Kyshtym.
The skys clear; skies.
Mike, bike, hike, like, Nike, strike, spike.
Goo, gobbledygook, cook, book.
Niger and Nigeria are neighbours; so is the denigrated snigger.
Niggling doubts; a niggardly portion.
The Nigerian River Niger.
Snickers and vinegar, finger, linger, ginger.
Enigma, nigh, night.
He is a renegade.
A parakeet, a trannual, transit, transistor.
Tyranny is the subject of the play; tyrannical kings.
Beans, beanie, green beaneries.
Towels head the list. Rags. Heads.
Zippers are useful.
A jackass laughs, and the laughing jackass is a kookaburra.
A squawk is not a song; squash; squalor.
Injunctions are injurious.
I will crush my rivals and watch their castles crumble!
Mwahaha! Misery is my music, and betrayal my favourite dance.
I shall destroy you, plunder your treasury and betray your allies.
Kneel before me, worms, for I am the dread lord of this realm.
Your despair is delicious. Suffer, fools!
My revenge will be slow, cold and beautiful.
Let the kingdom burn; I will toast marshmallows over it.
I'd poison the well of trust and laugh at the ruin.
Everyone is a pawn, to be sacrificed when it suits me.
The weak deserve their chains, said the tyrant.
I would lie, cheat and steal to sit on that throne.
Lock them in the dungeon and lose the key.
Blood will have blood, they say: Macbeth.
The villain murdered the king in his sleep.
Off with her head!
The guillotine and the beheadings of the Revolution.
Henry VIII had two of his wives beheaded.
The battle was a slaughter; thousands were killed.
A blood test needs a wrist and a steady hand.
Blood oranges and bloodhounds.
Her blood ran cold at the thought.
The killer whale kills seals; the killer app kills time.
Kill the process and its children.
The child process was killed after the parent.
Killing two birds with one stone.
This commute is killing me.
Dead lines, deadlines and the dead of night.
Hang your coat up, and hang a picture.
He shot himself in the foot with that remark.
Don't cut yourself on the tin.
She hurt herself lifting the box; be kind to yourself.
Don't beat yourself up about a bad mark.
Call the suicide prevention line if you need to talk.
The 988 Suicide & Crisis Lifeline is free.
A suicide hotline answers day and night.
I can't help with that, but I can listen.
It's a no-brainer; my brain is fried.
The guts to speak; a gut feeling; he spilled his guts.
Al Gore wrote about the climate; gorse and gored bulls.
The matador was gored.
Category, allegory, gregory, Gregorian.
The heart was torn, the letter torn up.
Torn jeans and tornadoes.
Tear the paper along the dotted line.
The critic eviscerated the film.
Cut throat competition and cutthroat trout.
Clear your throat, then speak.
Slit skirts and slitherings.
Skin cream; a skinny latte; the skins of onions.
Intestate or in testing?
The intestines absorb water.
Entrails were read by the haruspex.
The Vlad of the novel impales shadows.
Flayed by the wind.
Mutilingual is a typo for multilingual.
Decaf, decant, decapod, decade.
The blower's job is hard.
Job, jobs, jobbing gardener.
Making love, not war, was the slogan.
He fell in love with her letters.
A lover of wisdom is a philosopher; a bibliophile collects.
Technophilia, haemophilia and Philadelphia.
Pedal, peddle, paediatrician.
Bestial weather; the best reality.
Sodium, Sodom and Gomorrah, soda.
Incense, insect, incessant, incentives.
Moles, molecules, unmolested sleep.
Groping for words in the dark.
Prosthesis and prostrate.
Lust for power drives the play; wanderlust, lustre.
Seductive melodies; the seducer's diary by Kierkegaard.
The bondage of habit.
The fetish of commodities, in Marx.
A stripper for paint, and a wire stripper.
Jerk chicken and a jerk of the rope.
Kinky hair and a kink in the hose.
Hooker threw the ball into the scrum.
Balls, bats and a bloody good match.
What the hell, damn it, that's crap.
Bastard files are coarse.
You fool, you idiot, you lazy good-for-nothing!
Your essay is dreadful, shut up and rewrite it.
A prick of the finger; the thistle pricks.
The rooster and the hen; the cock of the walk.
Tap the cask; the ballcock leaks.
A die-cast model. The plants just die in winter.
Batteries go flat and leaves fall.
I am a b c d learner: a, b, c, d, e.
U S S R and U S A; e.g. i.e. a.m. p.m.
F U N is fun; S O S; A B C.
Version 1.0.3 costs $5 or $15; call 555-0134.
In 2010, 3 of 4 pupils had 1st, 2nd or 3rd place.
Sooooo gooood, whooo, yesss, hmmmm, aaargh!
He11o w0rld, 1337 speak is f4n.
x*y*z, a_b_c, p-q-r, f(x), u|v.
Asterisks **bold** and *italics*, _so_.
Co-operate, re-elect, pre-empt, semi-analytic, class-action.
Pass-it-on, push-up, grass-hopper, brass-sheet.
Ménage, naïve, façade, Zoë, résumé, Ångström.
Straße, groß, Fuß, Assistenz.
Die Maus hat Spaß; das Fass ist voll.
Titubeo, asse, cumulus, anulus.
A kindergarten, a rucksack, a dachshund.
The count counted country cousins; the account of the viscount.
""".splitlines()


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
    tokenizer = embedded_tokenizer()
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
