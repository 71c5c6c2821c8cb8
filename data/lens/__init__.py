"""The tuned lens of SmolLM2, for notebook 16, and what trains it."""
