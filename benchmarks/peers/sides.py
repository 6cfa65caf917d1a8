"""The same three jobs, each as one package's own documentation shows it: no line of ours in the peers' way.

`extract` returns the difference of mean states at the last token, of texts with something and without it in turn,
after each of some blocks; `generate` decodes greedily with coefficient times vector added after one block, a list of
texts for every coefficient. `batch` None means the documented default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

Texts = Sequence[str]


def chunks(items: Sequence[Any], n: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), n):
        yield items[start : start + n]


def contrast(states: torch.Tensor) -> np.ndarray:
    """(n, L, d), with and without in turn -> (L, d)."""
    states = states.float()
    return (states[::2] - states[1::2]).mean(dim=0).numpy()


class Transformers:
    """Plain `model(…, output_hidden_states=True)` and `generate`, one text at a time unless `batch` says otherwise."""

    def __init__(self, folder: str, dtype: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def encoded(self, texts: Texts, side: str = "left") -> Any:
        self.tokenizer.padding_side = side
        return self.tokenizer(
            list(texts), padding=True, add_special_tokens=False, return_token_type_ids=False, return_tensors="pt"
        )

    @torch.inference_mode()
    def extract(self, texts: Texts, blocks: Sequence[int], batch: int | None) -> np.ndarray:
        read = []
        for some in chunks(texts, batch or 1):
            hidden = self.model(**self.encoded(some), output_hidden_states=True).hidden_states
            read.append(torch.stack([hidden[b + 1][:, -1] for b in blocks], dim=1))
        return contrast(torch.cat(read))

    def generate(
        self, prompts: Texts, block: int, vector: torch.Tensor, coefficients: Sequence[float], n: int, batch: int | None
    ) -> list[list[str]]:
        return [
            [t for some in chunks(prompts, batch or 1) for t in self.steered(some, block, c * vector, n)]
            for c in coefficients
        ]

    @torch.inference_mode()
    def steered(self, prompts: Texts, block: int, push: torch.Tensor, n: int) -> list[str]:
        def hook(module: Any, inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            return (hidden + push.to(hidden), *output[1:]) if isinstance(output, tuple) else hidden + push.to(hidden)

        handle = self.model.model.layers[block].register_forward_hook(hook)
        try:
            return self.continued(self.model.generate, prompts, n)
        finally:
            handle.remove()

    def continued(self, generate: Callable[..., Any], prompts: Texts, n: int) -> list[str]:
        inputs = self.encoded(prompts)
        ids = generate(**inputs, max_new_tokens=n, do_sample=False)
        return self.decoded(ids[:, inputs["input_ids"].shape[1] :])

    def decoded(self, ids: Any) -> list[str]:
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in ids]


class SteeringVectors(Transformers):
    """`train_steering_vector`, whose batch is 1 unless one says more, and `SteeringVector.apply`."""

    def __init__(self, folder: str, dtype: str) -> None:
        super().__init__(folder, dtype)
        self.tokenizer.padding_side = "right"

    def extract(self, texts: Texts, blocks: Sequence[int], batch: int | None) -> np.ndarray:
        from steering_vectors import train_steering_vector

        pairs = list(zip(texts[::2], texts[1::2], strict=True))
        size = {} if batch is None else {"batch_size": max(1, batch // 2)}  # pairs, of which each side is a batch
        found = train_steering_vector(self.model, self.tokenizer, pairs, layers=list(blocks), **size)
        return torch.stack([found.layer_activations[b] for b in blocks]).float().numpy()

    @torch.inference_mode()
    def steered(self, prompts: Texts, block: int, push: torch.Tensor, n: int) -> list[str]:
        from steering_vectors import SteeringVector

        vector = SteeringVector({block: push.to(self.model.dtype)}, layer_type="decoder_block")
        with vector.apply(self.model):
            return self.continued(self.model.generate, prompts, n)


class Repeng(Transformers):
    """What `ControlVector.train` reads, in its batches of 32, before its own PCA; `ControlModel.set_control`."""

    def __init__(self, folder: str, dtype: str) -> None:
        super().__init__(folder, dtype)
        self.control: Any = None

    def extract(self, texts: Texts, blocks: Sequence[int], batch: int | None) -> np.ndarray:
        from repeng.extract import batched_get_hiddens

        self.tokenizer.padding_side = "right"
        with torch.inference_mode():
            read = batched_get_hiddens(self.model, self.tokenizer, list(texts), list(blocks), batch or 32)
        return contrast(torch.from_numpy(np.stack([read[b] for b in blocks], axis=1)))

    @torch.inference_mode()
    def steered(self, prompts: Texts, block: int, push: torch.Tensor, n: int) -> list[str]:
        from repeng import ControlModel, ControlVector

        if self.control is None:
            self.control = ControlModel(self.model, [block])
        self.control.set_control(ControlVector("llama", {block: push.numpy()}), 1.0)
        try:
            return self.continued(self.control.generate, prompts, n)
        finally:
            self.control.reset()


class Nnsight(Transformers):
    """`TransformersModel.trace` and `generate`; in batches it also stops after the last block that is read."""

    def __init__(self, folder: str, dtype: str) -> None:
        from nnsight import TransformersModel

        self.model = TransformersModel(folder, task="text-generation", dtype=getattr(torch, dtype), dispatch=True)
        self.tokenizer = self.model.tokenizer

    @torch.inference_mode()
    def extract(self, texts: Texts, blocks: Sequence[int], batch: int | None) -> np.ndarray:
        import nnsight

        model, read = self.model, []
        for some in chunks(texts, batch or 1):
            with model.trace(list(some) if batch else some[0]) as tracer:
                kept = nnsight.save([])
                for b in blocks:
                    kept.append(model.model.layers[b].output[:, -1])
                if batch:
                    tracer.stop()
            read.append(torch.stack(list(kept), dim=1))
        return contrast(torch.cat(read))

    @torch.inference_mode()
    def steered(self, prompts: Texts, block: int, push: torch.Tensor, n: int) -> list[str]:
        model, push = self.model, push.to(self.model.dtype)
        given = list(prompts) if len(prompts) > 1 else prompts[0]
        with model.generate(given, max_new_tokens=n, do_sample=False) as tracer:
            for _ in tracer.iter[:n]:
                model.model.layers[block].output[:] += push
            ids = tracer.result.save()
        width = self.encoded(prompts)["input_ids"].shape[1]
        return self.decoded(ids[:, width:])


class TransformerLens(Transformers):
    """`TransformerBridge`; in batches it caches only what is read, and stops behind it."""

    def __init__(self, folder: str, dtype: str) -> None:
        from transformer_lens.model_bridge import TransformerBridge

        self.model = TransformerBridge.boot_transformers(folder, device="cpu", dtype=getattr(torch, dtype))
        self.tokenizer = self.model.tokenizer

    @torch.inference_mode()
    def extract(self, texts: Texts, blocks: Sequence[int], batch: int | None) -> np.ndarray:
        names, read = [f"blocks.{b}.hook_resid_post" for b in blocks], []
        for some in chunks(texts, batch or 1):
            if batch is None:
                _, cache = self.model.run_with_cache(some[0], prepend_bos=False)
            else:
                inputs = self.encoded(some)
                less: dict[str, Any] = {"names_filter": names, "stop_at_layer": max(blocks) + 1}
                if max(blocks) + 1 == self.model.cfg.n_layers:
                    del less["stop_at_layer"]
                mask = inputs["attention_mask"]
                _, cache = self.model.run_with_cache(inputs["input_ids"], attention_mask=mask, **less)
            read.append(torch.stack([cache[name][:, -1] for name in names], dim=1))
        return contrast(torch.cat(read))

    @torch.inference_mode()
    def steered(self, prompts: Texts, block: int, push: torch.Tensor, n: int) -> list[str]:
        def add(hidden: torch.Tensor, hook: Any) -> torch.Tensor:
            return hidden + push.to(hidden)

        given = list(prompts) if len(prompts) > 1 else prompts[0]
        with self.model.hooks(fwd_hooks=[(f"blocks.{block}.hook_resid_post", add)]):
            ids = self.model.generate(
                given, max_new_tokens=n, do_sample=False, prepend_bos=False, return_type="tokens", verbose=False
            )
        return self.decoded(ids[:, self.encoded(prompts)["input_ids"].shape[1] :])


class Ours(Transformers):
    """`pool`, and `generate` under `Steer`; a sweep is one call."""

    def extract(self, texts: Texts, blocks: Sequence[int], batch: int | None) -> np.ndarray:
        from personalab.lm.activations import pool
        from personalab.lm.chat import Encoded

        ids = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        read = pool(self.model, [Encoded(row, [(len(row) - 1, len(row))]) for row in ids], blocks)
        return contrast(torch.cat(read))

    def generate(
        self, prompts: Any, block: int, vector: torch.Tensor, coefficients: Sequence[float], n: int, batch: int | None
    ) -> list[list[str]]:
        from personalab.lm.generation import Request, generate
        from personalab.lm.interventions import Steer

        asked = [Request(p, n, temperature=0.0) for _ in coefficients for p in prompts]
        push = Steer(block, vector, torch.tensor(coefficients).repeat_interleave(len(prompts)).float())
        texts = [c.text for c in generate(self.model, self.tokenizer, asked, interventions=[push])]
        return [list(some) for some in chunks(texts, len(prompts))]


SIDES: dict[str, type[Transformers]] = {
    "ours": Ours,
    "transformers": Transformers,
    "steering-vectors": SteeringVectors,
    "repeng": Repeng,
    "nnsight": Nnsight,
    "transformer-lens": TransformerLens,
}
