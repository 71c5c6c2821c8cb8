"""Plausible wrong answers to the exercises of notebook 02."""

from __future__ import annotations

import torch


def _masked(scores):
    return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)


def no_mask(x, W_Q, b_Q, W_K, b_K):
    return ((x @ W_Q + b_Q) @ (x @ W_K + b_K).T / W_Q.shape[1] ** 0.5).softmax(-1)


def mask_with_zeros(x, W_Q, b_Q, W_K, b_K):
    return ((x @ W_Q + b_Q) @ (x @ W_K + b_K).T / W_Q.shape[1] ** 0.5).tril().softmax(-1)


def no_scale(x, W_Q, b_Q, W_K, b_K):
    return _masked((x @ W_Q + b_Q) @ (x @ W_K + b_K).T).softmax(-1)


def scale_of_the_model(x, W_Q, b_Q, W_K, b_K):
    return _masked((x @ W_Q + b_Q) @ (x @ W_K + b_K).T / x.shape[1] ** 0.5).softmax(-1)


def no_biases(x, W_Q, b_Q, W_K, b_K):
    return _masked((x @ W_Q) @ (x @ W_K).T / W_Q.shape[1] ** 0.5).softmax(-1)


def softmax_over_queries(x, W_Q, b_Q, W_K, b_K):
    return _masked((x @ W_Q + b_Q) @ (x @ W_K + b_K).T / W_Q.shape[1] ** 0.5).softmax(0)


def only_scores(x, W_Q, b_Q, W_K, b_K):
    return _masked((x @ W_Q + b_Q) @ (x @ W_K + b_K).T / W_Q.shape[1] ** 0.5)


def per_target(pattern, mask):
    return (pattern * mask[:, None]).sum((0, 2, 3)) / mask.sum()


def over_all_queries(pattern, mask):
    return (pattern * mask[:, None]).sum(-1).mean((0, 2))


def over_all_entries(pattern, mask):
    return (pattern * mask[:, None]).mean((0, 2, 3))


def mask_the_wrong_way_round(pattern, mask):
    return (pattern * mask.mT[:, None]).sum((0, 2, 3)) / mask.any(-1).sum()


def per_sequence(pattern, mask):
    return (pattern * mask[:, None]).sum((2, 3)) / mask.any(-1).sum(-1, keepdim=True)


def without_vocabulary(W_E, W_V, W_O, W_U):
    values = torch.linalg.eigvals(W_O @ W_V)
    return values.real.sum() / values.abs().sum()


def real_parts_below(W_E, W_V, W_O, W_U):
    values = torch.linalg.eigvals(W_O @ W_U @ W_E @ W_V)
    return values.real.sum() / values.real.abs().sum()


def not_normalised(W_E, W_V, W_O, W_U):
    return (W_O @ W_U @ W_E @ W_V).trace()


def share_of_positive(W_E, W_V, W_O, W_U):
    return (torch.linalg.eigvals(W_O @ W_U @ W_E @ W_V).real > 0).float().mean()


def complex_score(W_E, W_V, W_O, W_U):
    values = torch.linalg.eigvals(W_O @ W_U @ W_E @ W_V)
    return values.sum() / values.abs().sum()


def whole_table(W_E, W_V, W_O, W_U):
    values = torch.linalg.eigvals(W_E @ W_V @ W_O @ W_U)
    return values.real.sum() / values.abs().sum()


def _composition(written, reads):
    return torch.stack([(written @ r).norm() / (written.norm() * r.norm()) for r in reads])


def q_and_k_exchanged(first, second):
    qk = second["W_K"] @ second["W_Q"].T
    return _composition(first["W_V"] @ first["W_O"], (qk, qk.T, second["W_V"] @ second["W_O"]))


def k_without_transpose(first, second):
    qk = second["W_Q"] @ second["W_K"].T
    return _composition(first["W_V"] @ first["W_O"], (qk, qk, second["W_V"] @ second["W_O"]))


def heads_exchanged(first, second):
    qk = first["W_Q"] @ first["W_K"].T
    return _composition(second["W_V"] @ second["W_O"], (qk, qk.T, first["W_V"] @ first["W_O"]))


def no_norms(first, second):
    qk, written = second["W_Q"] @ second["W_K"].T, first["W_V"] @ first["W_O"]
    reads = (qk, qk.T, second["W_V"] @ second["W_O"])
    return torch.stack([(written @ read).norm() for read in reads])


def thin_reads(first, second):
    return _composition(first["W_V"] @ first["W_O"], [second[n] for n in ("W_Q", "W_K", "W_V")])


def no_scale_between(A_1, A_2, scale, W_OV_1, W_OV_2):
    return A_2 @ A_1, W_OV_1 @ W_OV_2


def scale_of_the_source(A_1, A_2, scale, W_OV_1, W_OV_2):
    return A_2 @ A_1 / scale, W_OV_1 @ W_OV_2


def scale_of_the_last_query(A_1, A_2, scale, W_OV_1, W_OV_2):
    return A_2 @ A_1 / scale[:, None], W_OV_1 @ W_OV_2


def patterns_exchanged(A_1, A_2, scale, W_OV_1, W_OV_2):
    return A_1 @ (A_2 / scale[:, None]), W_OV_1 @ W_OV_2


def matrices_exchanged(A_1, A_2, scale, W_OV_1, W_OV_2):
    return A_2 @ (A_1 / scale[:, None]), W_OV_2 @ W_OV_1


def pattern_alone(A_1, A_2, scale, W_OV_1, W_OV_2):
    return A_2 @ (A_1 / scale[:, None])


WRONG = {
    "attention_pattern": [
        no_mask,
        mask_with_zeros,
        no_scale,
        scale_of_the_model,
        no_biases,
        softmax_over_queries,
        only_scores,
    ],
    "head_scores": [
        per_target,
        over_all_queries,
        over_all_entries,
        mask_the_wrong_way_round,
        per_sequence,
    ],
    "copying_score": [
        without_vocabulary,
        real_parts_below,
        not_normalised,
        share_of_positive,
        complex_score,
        whole_table,
    ],
    "composition": [
        q_and_k_exchanged,
        k_without_transpose,
        heads_exchanged,
        no_norms,
        thin_reads,
    ],
    "virtual_head": [
        no_scale_between,
        scale_of_the_source,
        scale_of_the_last_query,
        patterns_exchanged,
        matrices_exchanged,
        pattern_alone,
    ],
}
