"""The engine against the plain loop a learner writes, side by side in one run: generation and extraction.

Run it with `make bench`. Ratios are what counts: seconds depend on the machine and on what else it does. Each side
runs `REPEATS` times in turn, and the best of each is compared, so that a disturbance hits neither side alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

import utils
from personalab.lm import chat
from personalab.lm.generation import Request, generate

REPEATS = 3
BLOCK = 19  # of 30: two thirds of the way up, where blocks left out are a third of the work
N_PROMPTS, N_PLAIN, MAX_TOKENS = (
    96,
    12,
    48,
)  # the plain loop generates fewer: its tokens/s don't depend on how many
PERSONAS = ("default", "analyst", "chef", "pirate", "ghost", "oracle")


def main() -> None:
    model, tokenizer = utils.load_model("persona")
    print(f"{utils.current_tier().persona_model}, {model.dtype}, {torch.get_num_threads()} threads")
    roles, questions = utils.load_roles(), utils.load_questions()
    prompts = [
        chat.as_messages(roles[persona].prompts[0], question)
        for persona in PERSONAS
        for question in questions[: N_PROMPTS // len(PERSONAS)]
    ]
    answers = bench_generation(model, tokenizer, prompts)
    own = [[*p, {"role": "assistant", "content": a}] for p, a in zip(prompts, answers, strict=True) if a]
    bench_extraction(model, tokenizer, own[:48], BLOCK, f"{len(PERSONAS[:3])} personas x 16 questions")
    unlike = [chat.as_messages(None, f"{i}. {m[-2]['content']}", m[-1]["content"] * 2) for i, m in enumerate(own[:48])]
    bench_extraction(model, tokenizer, unlike, BLOCK, "48 conversations with nothing in common but the template")
    bench_memory(model, tokenizer, own[:16])


def bench_generation(model, tokenizer, prompts: list[list[dict[str, str]]]) -> list[str]:
    """Greedy, so that both sides must produce the same text."""
    requests = [Request(p, MAX_TOKENS, temperature=0.0) for p in prompts]
    spread = list(range(0, len(prompts), len(prompts) // N_PLAIN))[:N_PLAIN]
    plain, engine = best(
        lambda: plain_generate(model, tokenizer, [prompts[i] for i in spread]),
        lambda: generate(model, tokenizer, requests),
    )
    plain_speed = sum(n for _, n in plain.value) / plain.seconds
    engine_speed = sum(c.n_tokens for c in engine.value) / engine.seconds
    same = sum(text == engine.value[i].text for i, (text, _) in zip(spread, plain.value, strict=True))
    speedup = engine_speed / plain_speed
    print(f"generation: plain {plain_speed:.1f}, engine {engine_speed:.1f} tokens/s, ratio {speedup:.1f}")
    print(f"  greedy texts equal to the unbatched ones: {same} of {len(spread)}")
    return [c.text for c in engine.value]


@torch.inference_mode()
def plain_generate(model, tokenizer, prompts: list[list[dict[str, str]]]) -> list[tuple[str, int]]:
    """One `generate` a prompt."""
    out = []
    for messages in prompts:
        text = chat.render(messages, tokenizer, add_generation_prompt=True)
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)
        new = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        out.append((tokenizer.decode(new, skip_special_tokens=True), len(new)))
    return out


def bench_extraction(model, tokenizer, conversations: list[list[dict[str, str]]], block: int, what: str) -> None:
    """Mean activation of each answer after one block."""
    plain, engine = best(
        lambda: plain_extract(model, tokenizer, conversations, block),
        lambda: utils.mean_response_activations(model, tokenizer, conversations, [block])[:, 0],
    )
    tokens = sum(len(chat.encode(c, tokenizer).ids) for c in conversations)
    difference = ((engine.value - plain.value).norm() / plain.value.norm()).item()
    print(f"extraction, {what}, {tokens / len(conversations):.0f} tokens each:")
    print(
        f"  plain {tokens / plain.seconds:.0f}, engine {tokens / engine.seconds:.0f} tokens/s, "
        f"ratio {plain.seconds / engine.seconds:.2f}, relative difference {difference:.1e}"
    )


@torch.inference_mode()
def plain_extract(model, tokenizer, conversations: list[list[dict[str, str]]], block: int) -> Tensor:
    """One conversation at a time, with all hidden states."""
    means = []
    for messages in conversations:
        ids, ((start, end),) = chat.encode(messages, tokenizer)
        hidden = model(torch.tensor([ids], device=model.device), output_hidden_states=True).hidden_states[block + 1]
        means.append(hidden[0, start:end].float().mean(dim=0).cpu())
    return torch.stack(means)


@torch.inference_mode()
def bench_memory(model, tokenizer, conversations: list[list[dict[str, str]]]) -> None:
    """Bytes of activations held at once for all layers: what hooks keep against `output_hidden_states`."""
    n, width = len(conversations), max(len(chat.encode(c, tokenizer).ids) for c in conversations)
    held = utils.mean_response_activations(model, tokenizer, conversations)
    everything = (utils.n_blocks(model) + 1) * n * width * utils.d_model(model) * model.dtype.itemsize
    print(
        f"all layers, {n} conversations: engine keeps {held.numel() * held.element_size() / 1e6:.1f} MB, "
        f"output_hidden_states {everything / 1e6:.1f} MB"
    )


class Timed:
    """A result and the fewest seconds it took."""

    def __init__(self) -> None:
        self.value, self.seconds = None, float("inf")

    def run(self, function: Callable) -> None:
        start = time.perf_counter()
        self.value = function()
        self.seconds = min(self.seconds, time.perf_counter() - start)


def best(*functions: Callable) -> list[Timed]:
    """Every function `REPEATS` times, taking turns."""
    timed = [Timed() for _ in functions]
    for _ in range(REPEATS):
        for slot, function in zip(timed, functions, strict=True):
            slot.run(function)
    return timed


if __name__ == "__main__":
    main()
