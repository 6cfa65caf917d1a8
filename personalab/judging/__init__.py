"""The embedded judge: an autorater that runs in process, needs no key, and whose validity is measured."""

from personalab.judging.scoring import score_responses

__all__ = ["score_responses"]
