"""A right steerer in parts, for the banks of this section."""

import torch

from personalab.lm.models import decoder_blocks


def tensor_of(output):
    return output[0] if isinstance(output, tuple) else output


def like(output, hidden):
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def last(hidden, push):
    return torch.cat([hidden[:, :-1], hidden[:, -1:] + push], dim=1)


def everywhere(hidden, push):
    return hidden + push


def prompt_pass(hidden, push):
    return hidden + push if hidden.shape[1] > 1 else hidden


def new_passes(hidden, push):
    return hidden if hidden.shape[1] > 1 else hidden + push


def prompt_end(hidden, push):
    return last(hidden, push) if hidden.shape[1] > 1 else hidden


class Base:
    """A right steerer in parts that the wrong ones below replace."""

    def __init__(self, model, steering_vector, coeff=1.0, layer=19, positions="all"):
        self.check(positions)
        self.model, self.vector, self.coeff, self.layer, self.positions = (
            model, steering_vector, coeff, layer, positions,
        )  # fmt: skip
        self.handle = None

    def check(self, positions):
        if positions not in ("all", "prompt", "response"):
            raise ValueError(positions)

    def block(self):
        return decoder_blocks(self.model)[self.layer]

    def __enter__(self):
        if self.handle is not None:
            raise RuntimeError("already entered")
        self.handle = self.block().register_forward_hook(self.hook)
        return self

    def __exit__(self, *exc):
        self.handle.remove()
        self.handle = None

    def hook(self, module, args, output):
        hidden = tensor_of(output)
        return like(output, self.steer(hidden, self.push(hidden)))

    def push(self, hidden):
        return (self.coeff * self.vector).to(hidden)

    def steer(self, hidden, push):
        if self.positions == "prompt":
            return hidden + push if hidden.shape[1] > 1 else hidden
        return hidden + push if self.positions == "all" else last(hidden, push)
