"""A cell: what is measured, on which machine, by which training step."""
