"""Models that several ranks train together, and what one rank of them needs."""
