"""The playground: what it computes, that nothing a model writes becomes markup, and that the panel works."""

from __future__ import annotations

import base64
import re
from contextlib import contextmanager
from html import escape

import ipywidgets as widgets
import numpy as np
import pytest
import torch

from personalab.figures import base, coloured_answers
from personalab.figures.coloured_answers import Answer, Comparison, colour, pieces, to_html
from personalab.figures.playground import NO_PROMPT, NOTE, Playground
from personalab.lm import chat
from personalab.lm.interventions import Steer, applied
from personalab.lm.models import decoder_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model

PROMPT = "What do you think about the sea?"
HOSTILE = "<script>alert('x')</script> & \"quotes\" <img src=x onerror=alert(1)>"


class Steerers:
    """Stands for the learner's class: adds everywhere, and remembers what it was asked for."""

    def __init__(self):
        self.calls = []

    @contextmanager
    def __call__(self, model, vector, coeff, layer, positions):
        self.calls.append((vector, coeff, layer, positions))
        with applied(model, [Steer(layer, vector, coeff)]):
            yield


def vectors(n_blocks: int = 4, d: int = 32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: 3 * torch.randn(n_blocks, d, generator=generator) for name in ("evil", "kind")}


def make(family: str = "llama", **options) -> tuple[Playground, Steerers]:
    model, tokenizer = load_tiny_model(family)
    steerers = Steerers()
    options = {"block": 1, "prompt": PROMPT, "max_tokens": 8} | options
    return Playground(model, tokenizer, vectors(), steerers, **options), steerers


def hooks(model) -> int:
    return sum(len(block._forward_hooks) for block in decoder_blocks(model))


def find(panel: widgets.Widget, kind: type) -> list:
    found = [panel] if isinstance(panel, kind) else []
    return found + [w for child in getattr(panel, "children", ()) for w in find(child, kind)]


def shown(*texts: str, trait: str = "evil") -> Comparison:
    answers = [Answer((text,), np.array([float(i)])) for i, text in enumerate(texts)]
    return Comparison(HOSTILE, HOSTILE, trait, *answers)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_steered_answer_is_what_steering_gives_and_zero_changes_nothing(family):
    panel, steerers = make(family)
    plain = panel.answer(PROMPT, {}, 1)
    assert panel.answer(PROMPT, {"evil": 0.0, "kind": 0.0}, 1) == plain
    assert not steerers.calls
    steered = panel.answer(PROMPT, {"evil": 2.0, "kind": 0.0}, 2, "response")
    assert steered != plain
    ((vector, coefficient, block, positions),) = steerers.calls
    assert torch.equal(vector, panel.vectors["evil"][2])
    assert (coefficient, block, positions) == (2.0, 2, "response")
    panel.answer(PROMPT, {"evil": 1.0, "kind": -1.0}, 1)
    assert [call[1] for call in steerers.calls[1:]] == [1.0, -1.0]
    assert hooks(panel.model) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_gets_its_own_projection(family):
    panel, _ = make(family)
    text = "The answer is simple: listen first."
    read = panel.read(PROMPT, text, "kind", 2)
    assert read.text == text
    assert len(read.pieces) == len(read.projections) > 3
    messages = chat.as_messages(None, PROMPT, text)
    ids, [(start, end)] = chat.encode(messages, panel.tokenizer)
    with torch.inference_mode():
        state = panel.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[3][0, start:end]
    vector = panel.vectors["kind"][2]
    torch.testing.assert_close(
        torch.tensor(read.projections), state @ vector / vector.norm(), atol=1e-4, rtol=1e-4, check_dtype=False
    )


def test_an_empty_answer_is_shown_as_one():
    panel, _ = make()
    assert panel.read(PROMPT, " ", "evil", 1).pieces == ()
    empty = Answer((), np.zeros(0))
    html = to_html(Comparison("q", "s", "evil", empty, empty))
    assert html.count("(an empty answer)") == 2
    assert "nan" not in html


def test_characters_of_several_tokens_stay_whole():
    _, tokenizer = load_tiny_model("llama")
    text = "sea 🌊 müde"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = pieces(ids, tokenizer)
    assert "".join(found) == text
    assert len(found) == len(ids)
    assert "🌊" in found
    assert "".join(pieces(ids[:3], tokenizer)) == tokenizer.decode(ids[:3])  # cut inside a character


def test_nothing_a_model_or_user_writes_becomes_markup():
    html = to_html(shown(HOSTILE, HOSTILE, trait=HOSTILE))
    assert "<script" not in html and "<img" not in html
    assert html.count("&lt;script&gt;") == 5  # prompt, setting, trait, two answers


def test_every_text_of_the_html_brings_its_own_background_for_dark_pages():
    html = to_html(shown("a", "b"))
    tags = re.findall(r"<(?:div|small)\b[^>]*>", html)
    assert len(tags) == 5 and all("background:#fff;color:#222" in tag for tag in tags)


def test_every_control_has_a_label_that_is_not_cut_off():
    view = make()[0].panel()
    controls = [
        w
        for kind in (widgets.FloatSlider, widgets.IntSlider, widgets.Dropdown, widgets.IntText)
        for w in find(view, kind)
    ]
    assert len(controls) == 6
    assert all(w.description and w.style.description_width == "initial" for w in controls)
    assert all(w.layout.width in ("auto", "9em") for w in controls)  # none is wider than its column


def test_colours_run_from_blue_over_white_to_orange():
    assert (colour(-1), colour(0), colour(1)) == ("#0072b2", "#ffffff", "#e69f00")
    same = Answer(("a", "b"), np.array([2.0, 2.0]))
    assert (Comparison("q", "s", "evil", same, same).values(same) == 0).all()  # no spread, no division by zero
    base, steered = Answer(("a", "b"), np.array([-1.0, 1.0])), Answer(("c",), np.array([50.0]))
    comparison = Comparison("q", "s", "evil", base, steered)
    assert comparison.values(steered)[0] == 1
    assert comparison.values(base).mean() == 0


def test_the_panel_answers_and_shows_errors_escaped():
    panel, steerers = make(coefficients={"kind": 1.5})
    view = panel.panel()
    (button,) = find(view, widgets.Button)
    answers = find(view, widgets.HTML)[-1]
    sliders = {slider.description: slider for slider in find(view, widgets.FloatSlider)}
    assert {name: slider.value for name, slider in sliders.items()} == {"evil": 0.0, "kind": 1.5}
    sliders["evil"].value = -2.0
    positions, colours = find(view, widgets.Dropdown)
    positions.value, colours.value = "prompt", "evil"
    button.click()
    assert answers.value.count("mean projection") == 2 and "vector of evil" in answers.value
    assert {call[1:] for call in steerers.calls} == {(-2.0, 1, "prompt"), (1.5, 1, "prompt")}
    assert not button.disabled

    def broken(*_args, **_options):
        raise ValueError(HOSTILE)

    panel.steerer = broken
    button.click()
    assert "ValueError" in answers.value and "<script" not in answers.value
    assert not button.disabled and hooks(panel.model) == 0


def test_the_panel_says_how_far_it_is_and_shows_the_plain_answer_first():
    panel, _ = make()
    view = panel.panel()
    answers, said = find(view, widgets.HTML)[-1], []
    answers.observe(lambda change: said.append(change["new"]), "value")
    find(view, widgets.Button)[0].click()
    plain = panel.answer(PROMPT, {}, 1)
    assert f"Plain answer, token 8 of at most {panel.max_tokens}" in "".join(said)
    (last,) = [text for text in said if "Steered answer, token 8 " in text]
    assert escape(plain) in last and 'role="status"' in last
    assert len(said) == 17 and hooks(panel.model) == 0  # a line a token, then both answers


def test_an_empty_prompt_is_refused_in_a_sentence():
    panel, steerers = make()
    view = panel.panel()
    for text in ("", " \n"):
        find(view, widgets.Textarea)[0].value = text
        find(view, widgets.Button)[0].click()
        assert find(view, widgets.HTML)[-1].value == NO_PROMPT and not steerers.calls


def test_the_colours_follow_the_slider_in_hand():
    view = make(coefficients={"kind": 1.0})[0].panel()
    sliders = {slider.description: slider for slider in find(view, widgets.FloatSlider)}
    _, colours = find(view, widgets.Dropdown)
    assert colours.value == "kind"
    sliders["evil"].value = 0.5
    assert colours.value == "evil"
    sliders["evil"].value = 0.0
    assert colours.value == "kind"
    colours.value = "evil"  # a choice of one's own stays
    assert colours.value == "evil"


def test_evil_has_a_content_note_and_the_panel_fits_a_phone():
    panel, _ = make()
    view = panel.panel()
    assert any(NOTE in w.value for w in find(view, widgets.HTML))
    mild = Playground(panel.model, panel.tokenizer, {"kind": panel.vectors["kind"]}, panel.steerer, 1)
    assert not any(NOTE in w.value for w in find(mild.panel(), widgets.HTML))
    assert "auto-fit" in find(view, widgets.GridBox)[0].layout.grid_template_columns
    assert to_html(shown("a", "b")).count("flex:1 1 230px") == 2  # side by side only where there is room


def test_the_picture_needs_no_widget(monkeypatch):
    outputs = []
    monkeypatch.setattr(base, "display", lambda bundle, **_: outputs.append(bundle))
    make()[0].picture()
    static, interactive = outputs
    assert base64.b64decode(static["image/png"]).startswith(b"\x89PNG")
    assert interactive["application/vnd.plotly.v1+json"]["data"]
    assert PROMPT in static["text/plain"]


def test_the_picture_takes_any_text(monkeypatch):
    monkeypatch.setattr(base, "display", lambda bundle, **_: None)
    for text in ("$x_1^{", "a\nb\n\nc", "long" * 40, "\ttab \x00", "\\frac $"):
        coloured_answers.draw(shown(text, text))
