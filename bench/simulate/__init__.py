"""What a step needs on an accelerator that is not here: memory exactly, time by a model."""
