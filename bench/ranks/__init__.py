"""One training step over several ranks: how a model is split, measured, and put together again."""
