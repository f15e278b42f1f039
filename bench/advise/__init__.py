"""Advice on one model and one device: does it fit, what to do, what it costs, what else helps."""
