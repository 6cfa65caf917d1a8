"""Graders of Section 4's bonus: finetuning."""
