"""Plausible wrong answers to the exercises of notebook 12."""

from __future__ import annotations

import torch


def _long(vector, norm):
    return vector * norm / vector.norm()


def reversed_sign(positive, negative, norm):
    return _long((negative - positive).mean(0), norm)


def own_length(positive, negative, norm):
    return (positive - negative).mean(0)


def one_pair(positive, negative, norm):
    return _long((positive - negative)[0], norm)


def positive_only(positive, negative, norm):
    return _long(positive.mean(0), norm)


def equal_votes(positive, negative, norm):
    differences = positive - negative
    return _long((differences / differences.norm(dim=1, keepdim=True)).mean(0), norm)


def one_for_each_pair(positive, negative, norm):
    differences = positive - negative
    return differences * norm / differences.norm(dim=1, keepdim=True)


def cost_ignored(effects, costs, budget):
    return divmod(int(effects.argmax()), effects.shape[1])


def cheapest(effects, costs, budget):
    return divmod(int(costs.argmin()), costs.shape[1])


def too_expensive(effects, costs, budget):
    return divmod(int(effects.masked_fill(costs <= budget, -torch.inf).argmax()), costs.shape[1])


def column_first(effects, costs, budget):
    fits = effects.masked_fill(costs > budget, -torch.inf)
    return divmod(int(fits.argmax()), effects.shape[1])[::-1]


def flat_index(effects, costs, budget):
    return int(effects.masked_fill(costs > budget, -torch.inf).argmax())


def distinct_share(tokens):
    pairs = list(zip(tokens, tokens[1:], strict=False))
    return len(set(pairs)) / len(pairs)


def single_tokens(tokens):
    return 1 - len(set(tokens)) / len(tokens)


def equal_neighbours(tokens):
    pairs = list(zip(tokens, tokens[1:], strict=False))
    return sum(a == b for a, b in pairs) / len(pairs)


def how_many(tokens):
    pairs = list(zip(tokens, tokens[1:], strict=False))
    return float(len(pairs) - len(set(pairs)))


def first_time_too(tokens):
    pairs = list(zip(tokens, tokens[1:], strict=False))
    return sum(pairs.count(pair) > 1 for pair in pairs) / len(pairs)


def everywhere(acts, vector, strength, start):
    return acts + strength * vector


def before_start(acts, vector, strength, start):
    steered = acts.clone()
    steered[:, :start] += strength * vector
    return steered


def one_position(acts, vector, strength, start):
    steered = acts.clone()
    steered[:, start] += strength * vector
    return steered


def in_place(acts, vector, strength, start):
    acts[:, start:] += strength * vector
    return acts


def strength_forgotten(acts, vector, strength, start):
    steered = acts.clone()
    steered[:, start:] += vector
    return steered


def one_late(acts, vector, strength, start):
    steered = acts.clone()
    steered[:, start + 1 :] += strength * vector
    return steered


WRONG = {
    "contrastive_vector": [
        reversed_sign,
        own_length,
        one_pair,
        positive_only,
        equal_votes,
        one_for_each_pair,
    ],
    "sweet_spot": [cost_ignored, cheapest, too_expensive, column_first, flat_index],
    "repeated_share": [
        distinct_share,
        single_tokens,
        equal_neighbours,
        how_many,
        first_time_too,
    ],
    "add_after": [
        everywhere,
        before_start,
        one_position,
        in_place,
        strength_forgotten,
        one_late,
    ],
}
