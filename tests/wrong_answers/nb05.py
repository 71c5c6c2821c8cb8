"""Plausible wrong answers to the exercises of notebook 05."""

from __future__ import annotations

import torch


def exchanged(denoised, noised):
    enough = denoised > 0.5
    if enough.all():
        return "AND"
    return "OR" if not enough.any() else ("A" if enough[0] else "B")


def parts_exchanged(denoised, noised):
    enough = denoised > 0.5
    if enough.all():
        return "OR"
    return "AND" if not enough.any() else ("B" if enough[0] else "A")


def never_a_single_part(denoised, noised):
    return "AND" if noised.mean() >= denoised.mean() else "OR"


def exact_numbers(denoised, noised):
    return {(1, 1): "OR", (0, 0): "AND"}.get(tuple(denoised.tolist()), "A")


def lower_case(denoised, noised):
    return "and"


def ratio_for_each_prompt(patched, clean, corrupt):
    return ((patched - corrupt) / (clean - corrupt)).mean(-1)


def from_clean_to_corrupt(patched, clean, corrupt):
    return (patched - clean).mean(-1) / (corrupt - clean).mean()


def over_the_clean_run(patched, clean, corrupt):
    return (patched - corrupt).mean(-1) / clean.mean()


def without_subtracting(patched, clean, corrupt):
    return patched.mean(-1) / (clean - corrupt).mean()


def sign_reversed(patched, clean, corrupt):
    return (corrupt - patched).mean(-1) / (clean - corrupt).mean()


def for_each_prompt(patched, clean, corrupt):
    return (patched - corrupt) / (clean - corrupt)


def paired_indices(z, other, positions, heads):
    patched = z.clone()
    patched[:, positions, heads] = other[:, positions, heads]
    return patched


def at_every_position(z, other, positions, heads):
    patched = z.clone()
    patched[:, :, heads] = other[:, :, heads]
    return patched


def all_heads(z, other, positions, heads):
    patched = z.clone()
    patched[:, positions] = other[:, positions]
    return patched


def runs_exchanged(z, other, positions, heads):
    patched = other.clone()
    for position in positions:
        patched[:, position, heads] = z[:, position, heads]
    return patched


def in_place(z, other, positions, heads):
    for position in positions:
        z[:, position, heads] = other[:, position, heads]
    return z


def on_a_copy_that_is_lost(z, other, positions, heads):
    for position in positions:
        z.clone()[:, position, heads] = other[:, position, heads]
    return z


def everywhere(embeddings, mask, W_E, times, generator):
    return embeddings + times * W_E.std() * torch.randn(embeddings.shape, generator=generator)


def replaced(embeddings, mask, W_E, times, generator):
    noise = times * W_E.std() * torch.randn(embeddings.shape, generator=generator)
    return torch.where(mask[..., None], noise, embeddings)


def by_the_variance(embeddings, mask, W_E, times, generator):
    noise = torch.randn(embeddings.shape, generator=generator)
    return embeddings + times * W_E.var() * noise * mask[..., None]


def times_forgotten(embeddings, mask, W_E, times, generator):
    noise = torch.randn(embeddings.shape, generator=generator)
    return embeddings + W_E.std() * noise * mask[..., None]


def one_noise_for_all(embeddings, mask, W_E, times, generator):
    noise = torch.randn(embeddings.shape[-1], generator=generator)
    return embeddings + times * W_E.std() * noise * mask[..., None]


def own_generator(embeddings, mask, W_E, times, generator):
    noise = torch.randn(embeddings.shape)
    return embeddings + times * W_E.std() * noise * mask[..., None]


WRONG = {
    "which_gate": [
        exchanged,
        parts_exchanged,
        never_a_single_part,
        exact_numbers,
        lower_case,
    ],
    "mean_recovery": [
        ratio_for_each_prompt,
        from_clean_to_corrupt,
        over_the_clean_run,
        without_subtracting,
        sign_reversed,
        for_each_prompt,
    ],
    "patch_heads": [
        paired_indices,
        at_every_position,
        all_heads,
        runs_exchanged,
        in_place,
        on_a_copy_that_is_lost,
    ],
    "corrupt_subject": [
        everywhere,
        replaced,
        by_the_variance,
        times_forgotten,
        one_noise_for_all,
        own_generator,
    ],
}
