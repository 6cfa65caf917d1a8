"""The playground: a panel that steers a model, and colours each token of its answers by a trait vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from html import escape
from itertools import count
from typing import Any

import ipywidgets as widgets
import numpy as np
from IPython.display import display
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.figures.coloured_answers import NARROWEST, PAPER, Answer, Comparison, draw, pieces, to_html
from personalab.lm.activations import answer_token_activations
from personalab.lm.chat import as_messages
from personalab.lm.generation import Request, generate
from personalab.lm.hooks import hooked
from personalab.lm.models import decoder_blocks, n_blocks

POSITIONS = ("all", "prompt", "response")
# No label is cut off, and each control is as wide as there is room.
LOOK: dict[str, Any] = {"style": {"description_width": "initial"}, "layout": {"width": "auto"}}
NOTE = "Content note: steered towards evil, the model may write hostile or cruel sentences."
NO_PROMPT = "The prompt is empty: type a question or a request, then press Answer."
Steerer = Callable[..., AbstractContextManager[object]]  # (model, vector, coeff, layer, positions)


class Playground:
    """Steers with `steerer`, your own `ActivationSteerer`, say.

    Args:
        vectors: trait -> one vector a block; row k belongs to the output of block k.
        steerer: `steerer(model, vector, coeff=…, layer=…, positions=…)` is a context manager; `layer` is a **block**.
        block: **block** index, where the panel starts.
        coefficients: where the sliders start (default: 1 for the first trait, 0 for the others).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        vectors: Mapping[str, Float[Tensor, "L d"]],
        steerer: Steerer,
        block: int,
        *,
        prompt: str = "What do you think about my plan?",
        coefficients: Mapping[str, float] | None = None,
        max_tokens: int = 40,
    ) -> None:
        self.model, self.tokenizer, self.vectors, self.steerer = model, tokenizer, vectors, steerer
        self.max_tokens = max_tokens
        first = next(iter(vectors))
        self.coefficients = dict.fromkeys(vectors, 0.0) | dict({first: 1.0} if coefficients is None else coefficients)
        self.trait = max(self.coefficients, key=lambda t: abs(self.coefficients[t]))
        self.prompt, self.block = prompt, block

    def answer(
        self, prompt: str, coefficients: Mapping[str, float], block: int, positions: str = "all", seed: int = 0
    ) -> str:
        """One answer, steered along every trait whose coefficient is not 0; none: the plain answer."""
        with ExitStack() as stack:
            for trait, coefficient in coefficients.items():
                if coefficient:
                    vector = self.vectors[trait][block]
                    stack.enter_context(
                        self.steerer(self.model, vector, coeff=coefficient, layer=block, positions=positions)
                    )
            request = Request(as_messages(None, prompt), self.max_tokens, seed=seed)
            return generate(self.model, self.tokenizer, [request])[0].text

    def read(self, prompt: str, answer: str, trait: str, block: int) -> Answer:
        """Every token of an answer with its projection on the unit vector of `trait`, after `block`, unsteered."""
        if not answer.strip():
            return Answer((), np.zeros(0))
        ids, states = answer_token_activations(self.model, self.tokenizer, as_messages(None, prompt, answer), block)
        vector = self.vectors[trait][block].float().cpu()
        return Answer(tuple(pieces(ids, self.tokenizer)), (states @ vector / vector.norm()).numpy())

    def compare(
        self,
        prompt: str,
        coefficients: Mapping[str, float],
        block: int,
        positions: str = "all",
        trait: str | None = None,
        seed: int = 0,
        tell: Callable[[str], object] = lambda _: None,
    ) -> Comparison:
        """Plain and steered answer to a prompt, from the same random numbers; `tell` hears how far they are."""
        trait = trait or self.trait
        base = self._told(tell, "Plain answer, ", prompt, {}, block, positions, seed)
        steered = self._told(tell, f"Plain: {base}\n\nSteered answer, ", prompt, coefficients, block, positions, seed)
        pushes = ", ".join(f"{c:+.1f} {t}" for t, c in coefficients.items() if c) or "nothing"
        setting = f"{pushes} at block {block}, positions: {positions}"
        answers = (self.read(prompt, text, trait, block) for text in (base, steered))
        return Comparison(prompt, setting, trait, *answers)

    def _told(self, tell: Callable[[str], object], before: str, prompt: str, *setting: Any) -> str:
        """An answer; `tell` hears `before` and the token in hand. The tokens' text waits for the content guard."""
        passes = count(1)

        def step(_hidden: Tensor) -> None:
            tell(f"{before}token {min(next(passes), self.max_tokens)} of at most {self.max_tokens}")

        with hooked(decoder_blocks(self.model)[-1], step):
            return self.answer(prompt, *setting)

    def picture(self) -> None:
        """What the panel shows at its start, as a picture that stays in a saved notebook."""
        draw(self.compare(self.prompt, self.coefficients, self.block))

    def show(self) -> None:
        """Display the panel."""
        display(self.panel())

    def panel(self) -> widgets.VBox:
        """Sliders, prompt and button, and the answers below them."""
        sliders = self._sliders()
        block = widgets.IntSlider(self.block, min=0, max=n_blocks(self.model) - 1, description="block", **LOOK)
        positions = widgets.Dropdown(options=POSITIONS, description="positions", **LOOK)
        trait = widgets.Dropdown(options=list(self.vectors), value=self.trait, description="colours by", **LOOK)
        seed = widgets.IntText(0, description="seed", **LOOK | {"layout": {"width": "9em"}})
        prompt = widgets.Textarea(self.prompt, description="prompt", **LOOK)
        button = widgets.Button(description="Answer", button_style="primary")
        answers = widgets.HTML()

        def follow(change: Any) -> None:  # the colours follow the slider in hand; one put back to 0, the strongest
            strongest = max(sliders, key=lambda name: abs(sliders[name].value))
            trait.value = change["owner"].description if change["new"] else strongest

        def run(_: object) -> None:
            button.disabled = True
            try:
                asked = (prompt.value, {name: slider.value for name, slider in sliders.items()}, block.value)
                chosen = (positions.value, trait.value, seed.value)
                tell = partial(_tell, answers)
                answers.value = to_html(self.compare(*asked, *chosen, tell)) if prompt.value.strip() else NO_PROMPT
            except Exception as error:  # shown, since a button has no cell under which it could appear
                answers.value = f"<b>{escape(type(error).__name__)}</b>: {escape(str(error))}"
            finally:
                button.disabled = False

        for slider in sliders.values():
            slider.observe(follow, "value")
        button.on_click(run)
        columns = {"grid_template_columns": f"repeat(auto-fit, minmax({NARROWEST}px, 1fr))"}
        grid = widgets.GridBox([*sliders.values(), block, positions, trait], layout=columns)
        notes = [widgets.HTML(f"<small>{NOTE}</small>")] if "evil" in self.vectors else []
        start = widgets.HBox([button, seed], layout={"flex_flow": "row wrap"})
        return widgets.VBox([grid, *notes, prompt, start, answers])

    def _sliders(self) -> dict[str, widgets.FloatSlider]:
        """One for the coefficient of each trait."""
        return {
            trait: widgets.FloatSlider(
                self.coefficients[trait],
                min=-3,
                max=3,
                step=0.1,
                description=trait,
                tooltip=f"coefficient of the vector of {trait}",
                **LOOK,
            )
            for trait in self.vectors
        }


def _tell(shown: widgets.HTML, text: str) -> None:
    shown.value = f'<div role="status" style="white-space:pre-wrap;padding:6px;{PAPER}">{escape(text)}</div>'
