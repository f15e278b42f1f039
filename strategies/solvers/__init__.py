"""Algorithms that find plans: pure functions of numbers, which know no torch."""
