"""Sparse autoencoders of pocket, trained longer than a notebook can; `mi.sae.load(folder)`."""
