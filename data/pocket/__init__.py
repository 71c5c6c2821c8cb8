"""Pocket: the generator of its text, its training and its weights."""
