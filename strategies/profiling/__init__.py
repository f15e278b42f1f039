"""Profiles of a model's chain, taken by watching one step on an example."""
