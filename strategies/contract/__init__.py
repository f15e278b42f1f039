"""What a strategy is, how it is found, and how it is applied."""
