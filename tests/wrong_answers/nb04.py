"""Plausible wrong answers to the exercises of notebook 04."""

from __future__ import annotations

import torch


def reversed_sign(logits, answers):
    right, wrong = logits[:, -1].gather(1, answers).unbind(1)
    return wrong - right


def first_position(logits, answers):
    right, wrong = logits[:, 0].gather(1, answers).unbind(1)
    return right - wrong


def of_probabilities(logits, answers):
    right, wrong = logits[:, -1].softmax(-1).gather(1, answers).unbind(1)
    return right - wrong


def right_log_prob(logits, answers):
    return logits[:, -1].log_softmax(-1).gather(1, answers)[:, 0]


def batch_mean(logits, answers):
    right, wrong = logits[:, -1].gather(1, answers).unbind(1)
    return (right - wrong).mean()


def one_pair_for_all(logits, answers):
    right, wrong = answers[0]
    return logits[:, -1, right] - logits[:, -1, wrong]


def _ends(samples, confidence):
    return samples.quantile(torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2]))


def spread_of_values(values, picks, confidence):
    return _ends(values, confidence)


def whole_tail_at_each_end(values, picks, confidence):
    means = values[picks].mean(1)
    return means.quantile(torch.tensor([1 - confidence, confidence]))


def always_95(values, picks, confidence):
    return _ends(values[picks].mean(1), 0.95)


def mean_over_resamples(values, picks, confidence):
    return _ends(values[picks].mean(0), confidence)


def medians(values, picks, confidence):
    return _ends(values[picks].median(1).values, confidence)


def ends_exchanged(values, picks, confidence):
    return _ends(values[picks].mean(1), confidence).flip(0)


def all_means(values, picks, confidence):
    return values[picks].mean(1)


def among_names(read, W_OV, W_U, names, k):
    top = (read @ W_OV @ W_U)[:, names].topk(k).indices
    return (top == torch.arange(len(names))[:, None]).any(-1).float().mean()


def top_token_only(read, W_OV, W_U, names, k):
    return ((read @ W_OV @ W_U).argmax(-1) == names).float().mean()


def lowered_most(read, W_OV, W_U, names, k):
    low = (read @ W_OV @ W_U).topk(k, largest=False).indices
    return (low == names[:, None]).any(-1).float().mean()


def without_the_head(read, W_OV, W_U, names, k):
    return ((read @ W_U).topk(k).indices == names[:, None]).any(-1).float().mean()


def transposed(read, W_OV, W_U, names, k):
    return ((read @ W_OV.T @ W_U).topk(k).indices == names[:, None]).any(-1).float().mean()


def a_count(read, W_OV, W_U, names, k):
    return ((read @ W_OV @ W_U).topk(k).indices == names[:, None]).any(-1).float().sum()


def one_per_name(read, W_OV, W_U, names, k):
    return ((read @ W_OV @ W_U).topk(k).indices == names[:, None]).any(-1).float()


def with_its_own_change(before, after, silenced):
    return (after - before).sum() / before[silenced]


def the_drop(before, after, silenced):
    return (before.sum() - after.sum()) / before[silenced]


def in_logits(before, after, silenced):
    change = after - before
    return change.sum() - change[silenced]


def sign_of_repair(before, after, silenced):
    return -in_logits(before, after, silenced) / before[silenced]


def of_the_whole(before, after, silenced):
    return in_logits(before, after, silenced) / before.sum()


def increases_only(before, after, silenced):
    return (after - before).clamp(min=0).sum() / before[silenced]


def loudest_share(clean, twin):
    return divmod(int(clean.mean(0).argmax()), clean.shape[2])


def largest_anywhere(clean, twin):
    place = int((clean - twin).abs().argmax()) % clean[0].numel()
    return divmod(place, clean.shape[2])


def size_before_mean(clean, twin):
    loudest = (clean - twin).abs().mean(0)
    return divmod(int(loudest.argmax()), clean.shape[2])


def positive_only(clean, twin):
    return divmod(int((clean - twin).mean(0).argmax()), clean.shape[2])


def flat_index(clean, twin):
    return int((clean - twin).mean(0).abs().argmax())


def three_numbers(clean, twin):
    return (int((clean - twin).mean(0).abs().argmax()), 0, 0)


WRONG = {
    "logit_differences": [
        reversed_sign,
        first_position,
        of_probabilities,
        right_log_prob,
        batch_mean,
        one_pair_for_all,
    ],
    "interval_of_mean": [
        spread_of_values,
        whole_tail_at_each_end,
        always_95,
        mean_over_resamples,
        medians,
        ends_exchanged,
        all_means,
    ],
    "name_copying": [
        among_names,
        top_token_only,
        lowered_most,
        without_the_head,
        transposed,
        a_count,
        one_per_name,
    ],
    "self_repair": [
        with_its_own_change,
        the_drop,
        in_logits,
        sign_of_repair,
        of_the_whole,
        increases_only,
    ],
    "moving_head": [
        loudest_share,
        largest_anywhere,
        size_before_mean,
        positive_only,
        flat_index,
        three_numbers,
    ],
}
