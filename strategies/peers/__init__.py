"""Everyone else's checkpointing as strategies, one file each: measured and checked as ours is.

No sweep tries them unless it is asked to (``sweep --suite peers``, ``python -m bench peers``).
"""
