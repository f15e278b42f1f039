"""Instruments. Each takes a callable; none knows what a strategy is."""
