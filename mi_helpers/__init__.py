"""Thin helpers for mechanistic interpretability of GPT-2 small."""
