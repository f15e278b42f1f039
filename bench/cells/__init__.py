"""A cell: what is measured, on which machine, by which training step."""

ROUNDS = 16
"""Timed rounds, if nobody says otherwise: enough to see 5 % at 2 % of noise in a step."""
