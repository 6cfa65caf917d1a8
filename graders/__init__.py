"""Graders: each compares a learner's function with an oracle that shares no code with the engine.

A grader returns None when all is well and raises AssertionError with a message for the learner otherwise: what was
expected, what was found, which mistake that looks like, and where to look. `tests.py` at the root is their front door.
"""
