"""Instruments. Each takes a callable and knows no strategy; `blocks` knows chains and plans."""
