"""Pocket trained a little further, so that what changed is known: text, and the training."""
