"""Data of the suite: the pocket model, claims, prompts, glossary and literature."""
