"""Persona Lab: exercises on the persona space of language models. Importing it loads nothing heavy."""

__version__ = "0.1.0"
