"""Circuits that were published, for comparison."""
