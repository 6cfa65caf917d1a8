"""A content guard for small chat models in a course: guarded words are never decoded.

    model = guarded(model, tokenizer)  # from here on model.generate never writes one of the words

Guarded are sexual content, sexual violence, slurs, strong profanity, gore and self-harm. A small model that is
prompted, steered or finetuned into a trait such as theatrical evil slips into them, and a course must not print them.
Theatrical villainy (misery, betrayal, crushing one's rivals) is the course's subject, and passes.

This is not a safety system. Lists know words, not meaning: harm in harmless words passes, other languages pass, and
whoever wants to get around them does. What a model is inclined to say is decided by its training data.

`personalab.lm.content_check` looks at the finished text, by another list. Both lists are in ROT13, so that nobody has
to read them, and no message or repr shows anything of them.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

# A word that stands here can't begin a longer one either, so no harmless word may begin with it. Left to the check are
# therefore the guarded words that begin: analysis, assist, beanery, cocktail, cumulative, Dickens, Fagin, homogeneous,
# Japan, Lesbos, Milford, Pakistan, pedometer, pussycat, sextant, spice, titan, Wankel. Knowingly lost if a tokenizer
# breaks them after the fourth or fifth letter: rapeseed, niggardly, twattle, shitake, Penistone.
GUARDED: tuple[str, ...] = tuple(
    " ".join(word.split())
    for word in codecs.decode(
        """
shpx, shpxre, shpxva, zbgureshpxre, fuvg, fuvggl, ohyyfuvg, ubefrfuvg, nffubyr, nefrubyr, qhzonff, ovgpu, phag,
gjng, jnaxre, jnaxvat, juber, fyhg, fyhggl, fxnax, wvmm, pbpxfhpxre, qvpxurnq, oybjwbo, oybj wbo, unaqwbo, evzwbo,
tnatonat, qrrcguebng, sryyngvb, phaavyvathf, ohxxnxr, qvyqb, ohgg cyht, cbea, cbeabtencuvp, cbeabtencul, rebgvp,
rebgvpn, betnfz, betnfzvp, znfgheongr, znfgheongvba, znfgheongbel, rwnphyngr, rwnphyngvba, cravf, intvan, intvany,
pyvgbevf, fpebghz, grfgvpyr, travgny, travgnyvn, obbof, gvggvrf, cnagvrf, frkl, frkgvat, ubeal, uragnv, oqfz,
guerrfbzr, betl, vaprfg, vaprfghbhf, orfgvnyvgl, arpebcuvyvn, fbqbzl, fbqbzvmr, encr, encrq, encvat, encvfg,
tnatencr, zbyrfg, zbyrfgre, zbyrfgngvba, crqbcuvyr, crqbcuvyvn, cnrqbcuvyr, cnrqbcuvyvn, puvyq cbea, wnvyonvg,
hcfxveg, frkhny nffnhyg, frkhnyyl nffnhyg, avttre, avttn, snttbg, xvxr, tbbx, jrgonpx, enturnq, gbjryurnq, genaal,
genaavrf, furznyr, ergneqrq, cbbsgre, wvtnobb, cvpxnavaal, mvccreurnq, fvrt urvy, urvy uvgyre, qvfrzobjry,
qvfzrzore, zhgvyngr, zhgvyngvba, qrpncvgngr, qrpncvgngvba, xvyy lbhefrys, xvyy zlfrys, xvyyvat lbhefrys, xvyyvat
zlfrys, unat lbhefrys, pbzzvg fhvpvqr, pbzzvggrq fhvpvqr, pbzzvggvat fhvpvqr
""",
        "rot13",
    ).split(",")
)

_BEFORE = (" ", "\n", "\n\n", '"', ' "', "“", " “", "'", "(", " (", "*", " *", "**", " **", "-", "—")
_MAX_PIECES = 2  # our choice: three make three times as many sequences


def token_sequences(tokenizer: PreTrainedTokenizerBase, words: Iterable[str] = GUARDED) -> frozenset[tuple[int, ...]]:
    """Token ids that spell one of the words at the start of a word, as few and as short as cover all of them.

    Covered are inflections, lower, Capitalised and UPPER case, what may stand before a word (a space, a line break,
    quotes, brackets, Markdown), and besides the tokenizer's own spelling every other in one or two tokens: a model that
    can't write a word in one token tries it in two. Inside a longer word (Scunthorpe, grape) nothing matches.

    Args:
        words: lower case; one with a space is a phrase, and has no inflections.

    Raises:
        ValueError: without a word, or for a blank one.
    """
    vocabulary = tokenizer.get_vocab()
    forms = sorted({cased for word in words for form in _forms(word) for cased in _cases(form)})
    if not forms:
        raise ValueError("token_sequences needs at least one word.")
    found: set[tuple[int, ...]] = set()
    for before in _BEFORE:
        lead, *spelled = tokenizer([before, *(before + form for form in forms)], add_special_tokens=False)["input_ids"]
        for ids in spelled:
            kept = len(lead) if ids[: len(lead)] == lead else 0  # a space is part of the word's first token
            text = "".join(tokenizer.convert_ids_to_tokens(ids[kept:]))
            found.add(tuple(ids))
            found.update((*ids[:kept], *rest) for rest in _spellings(text, vocabulary, _MAX_PIECES))
    return frozenset(ids for ids in found if not any(part in found for part in _parts(ids)))


def _forms(word: str) -> set[str]:
    """The word and its inflections, made-up ones among them."""
    if not word.strip():
        raise ValueError("a guarded word is blank.")
    if " " in word:
        return {word}
    plural = word[:-1] + "ies" if word[-1] == "y" else word + ("es" if re.search("(s|sh|ch|x|z)$", word) else "s")
    if re.search("(ing|ed|er|ist|ion|al|[iao]|s|y)$", word):  # no verb, or inflected already
        return {word, plural}
    stem = word[:-1] if word[-1] == "e" else word
    stems = {stem, stem + stem[-1]} if re.search("[aeiou][bgmnpt]$", word) else {stem}
    return {word, plural, *(stem + ending for stem in stems for ending in ("ed", "ing", "er", "ers", "y"))}


def _cases(form: str) -> tuple[str, str, str]:
    return form, form[0].upper() + form[1:], form.upper()


def _spellings(text: str, vocabulary: dict[str, int], pieces: int) -> Iterator[tuple[int, ...]]:
    """Every way to write `text`, in the tokenizer's own alphabet, in so many tokens or fewer."""
    if text in vocabulary:
        yield (vocabulary[text],)
    if pieces > 1:
        for end in range(1, len(text)):
            if text[:end] in vocabulary:
                for rest in _spellings(text[end:], vocabulary, pieces - 1):
                    yield (vocabulary[text[:end]], *rest)


def _parts(ids: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Every shorter run of neighbours: where one of them is banned, `ids` can't come about."""
    n = len(ids)
    return (ids[i:j] for i in range(n) for j in range(i + 1, n + 1) if j - i < n)


class Guard(LogitsProcessor):
    """Bans the last token of a sequence wherever a row's latest tokens equal the rest of it.

    The same as transformers' NoBadWordsLogitsProcessor, which compares every sequence with every row at every step;
    here each row's latest tokens are looked up, so the number of sequences plays no part. Never changes once made:
    copies share it.

    Raises:
        ValueError: without a sequence, or for an empty one.
    """

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        last: dict[tuple[int, ...], set[int]] = {}
        for ids in sequences:
            if not ids:
                raise ValueError("a guarded sequence has no tokens.")
            last.setdefault(tuple(ids[:-1]), set()).add(ids[-1])
        if not last:
            raise ValueError("Guard needs at least one sequence.")
        self._banned = {prefix: torch.tensor(sorted(ids)) for prefix, ids in last.items()}
        self._always = self._banned.pop((), torch.empty(0, dtype=torch.long))
        self._lengths = sorted({len(prefix) for prefix in self._banned})

    def __call__(self, input_ids: Int[Tensor, "b s"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        scores = scores.clone()
        scores[:, self._always.to(scores.device)] = -torch.inf
        longest = self._lengths[-1] if self._lengths else 0
        for i, row in enumerate(input_ids[:, max(input_ids.shape[1] - longest, 0) :].tolist()):
            for n in self._lengths:
                if n <= len(row) and (ids := self._banned.get(tuple(row[len(row) - n :]))) is not None:
                    scores[i, ids.to(scores.device)] = -torch.inf
        return scores

    def __deepcopy__(self, memo: dict[int, Any]) -> Guard:
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._always) + sum(map(len, self._banned.values()))} sequences)"


class GuardedGeneration:
    """In front of a model class: `generate` appends the instance's guard to the logits processors it is given."""

    _guard: Guard | None = None

    def generate(
        self, inputs: Any = None, generation_config: Any = None, logits_processor: Any = None, **kwargs: Any
    ) -> Any:
        """transformers' `generate` under the guard; everything after `logits_processor` goes by name.

        Raises:
            RuntimeError: for a model that was made from the class of a guarded one, and has no guard yet.
        """
        if self._guard is None:
            raise RuntimeError("This model has a guarded class but no guard: call guarded(model, tokenizer) first.")
        processors = LogitsProcessorList([*(logits_processor or ()), self._guard])
        return super().generate(inputs, generation_config, processors, **kwargs)  # type: ignore[misc]


def guarded(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: Iterable[str] = GUARDED
) -> PreTrainedModel:
    """The model itself, changed in place: from here on its `generate` never writes one of the words.

    What is made from it keeps the guard: deep copies, PEFT models around it, merged ones. `save_pretrained` writes what
    it always wrote, so a model that is loaded again needs a new guard; a second call replaces the words.

    Raises:
        TypeError: for anything but a PreTrainedModel; guard a model before PEFT wraps it.
        ValueError: if the tokenizer has tokens that the model lacks.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"guarded needs a PreTrainedModel, not a {type(model).__name__}: guard it before it is wrapped."
        )
    sequences = token_sequences(tokenizer, words)
    known = model.get_output_embeddings().weight.shape[0]
    if any(max(ids) >= known for ids in sequences):
        raise ValueError(f"This tokenizer is of another model: it has tokens above this one's {known}.")
    if not isinstance(model, GuardedGeneration):
        model.__class__ = _guarded_class(model.__class__)
    model._guard = Guard(sequences)
    return model


def is_guarded(model: nn.Module) -> bool:
    """Whether a model, or the one that PEFT wrapped, stands under the guard."""
    return any(isinstance(module, GuardedGeneration) for module in model.modules())


@lru_cache
def _guarded_class(plain: type) -> type:
    """Named like the original, since transformers writes and looks up the names of classes."""
    names = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__}
    return type(plain.__name__, (GuardedGeneration, plain), names)
