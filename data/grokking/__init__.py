"""Models that grok addition modulo 113: checkpoints along the way, and the script."""
