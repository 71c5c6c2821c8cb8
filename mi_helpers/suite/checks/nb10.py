"""Checks of notebook 10: BatchTopK, cosines, variance, a unit as a detector."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import (
    compare,
    distinct,
    exercise,
    expect_close,
    expect_parts,
    expect_shape,
    refuse_if,
    run,
    smallest,
)


def _keep(values: Tensor, count: int, dim: int | None = None) -> Tensor:
    """The largest of all values, or of each row or column; zeros elsewhere."""
    flat = values.flatten() if dim is None else values
    along = -1 if dim is None else dim
    top = flat.topk(count, dim=along)
    return torch.zeros_like(flat).scatter(along, top.indices, top.values).view_as(values)


def _batch_topk(pre: Tensor, k: int) -> Tensor:
    return _keep(pre.relu(), k * len(pre))


@exercise
def batch_topk(answer: Any, rng: torch.Generator) -> None:
    """The k n largest of a batch of n."""
    hint = "Zeros where nothing is kept, the shape stays."
    for k in distinct(rng, 1, 4):
        scale = torch.tensor([3.0, 1, 1, 0.4, 0.4, 0.1])[torch.randperm(6, generator=rng)]
        pre = torch.randn(6, 9, generator=rng) * scale[:, None] + 0.02
        pre[int(torch.randint(6, (), generator=rng))].abs_().neg_()
        count = 6 * k
        pre.view(-1)[torch.randperm(54, generator=rng)[: count + 2]] = 0.5 + torch.rand(
            count + 2, generator=rng
        )  # more positive ones than are kept
        mistakes = {
            "You kept k units of every input: that is TopK. Count over the whole batch.": (
                _keep(pre.relu(), k, 1)
            ),
            "You kept k units of the whole batch. It is k for each input: k times n.": (
                _keep(pre.relu(), k)
            ),
            "You kept the largest by size. Only positive activations count.": (
                _keep(pre.abs(), count) * pre.sign()
            ),
            "You kept the largest inputs of each unit. Count over the whole batch.": (
                _keep(pre.relu(), k, 0)
            ),
            "You kept one too few: the k n-th largest itself is left out. Compare with >=, not "
            "with >.": _keep(pre.relu(), count - 1),
            "You kept one too many: k n of them, not k n + 1.": _keep(pre.relu(), count + 1),
            "You counted k for each unit, not for each input.": _keep(pre.relu(), min(9 * k, 54)),
            "You returned the mask. Return the activations where it is true.": (
                (_batch_topk(pre, k) > 0).float()
            ),
            "You kept every positive activation: that is a ReLU.": pre.relu(),
            "You returned the smallest: keep the largest.": pre.relu() - _batch_topk(pre, k),
        }
        inputs = {"pre [batch d_sae]": pre, "k": k}
        compare(answer, _batch_topk, inputs, mistakes, hint=hint)
    few = -torch.rand(4, 5, generator=rng)
    few[0, 0] = 1.0
    got = expect_shape(run(answer, few, 2), (4, 5), hint)
    refuse_if(
        bool((got < 0).any()),
        "With few positive activations you kept negative ones. Those count as zero.",
    )
    expect_close(got, few.relu())


def _nearest(truth: Tensor, dictionary: Tensor) -> Tensor:
    one, other = (rows / rows.norm(dim=-1, keepdim=True) for rows in (truth, dictionary))
    return (one @ other.T).amax(1)


@exercise
def nearest_cosine(answer: Any, rng: torch.Generator) -> None:
    """For each true direction the largest cosine with a row of the dictionary."""
    truth = torch.randn(5, 8, generator=rng) * torch.arange(1, 6)[:, None]
    dictionary = torch.randn(9, 8, generator=rng) * torch.linspace(0.3, 2, 9)[:, None]
    dictionary[4] = -2 * truth[1]
    lengths = truth.norm(dim=-1, keepdim=True), dictionary.norm(dim=-1)
    dots = truth @ dictionary.T
    cosines = dots / lengths[0] / lengths[1]
    mistakes = {
        "These are dot products. A cosine divides by the lengths of both rows.": dots.amax(1),
        "You divided by the lengths of the true directions alone. The units have lengths, too.": (
            dots / lengths[0]
        ).amax(1),
        "You divided by the lengths of the units alone. The directions have lengths, too.": (
            dots / lengths[1]
        ).amax(1),
        "A row that points the other way does not count: no absolute values.": (
            cosines.abs().amax(1)
        ),
        "You averaged over the units. Take the nearest one.": cosines.mean(1),
        "You took the smallest cosine. Take the largest.": cosines.amin(1),
        "You took the cosine of the unit with the largest dot product. Take the largest one.": (
            cosines.gather(1, dots.argmax(1, keepdim=True))[:, 0]
        ),
        "You returned the number of the unit. Return its cosine.": cosines.argmax(1).float(),
        "These are cosines of the units at the same place. Compare with every unit.": (
            cosines.diagonal()
        ),
    }
    inputs = {"truth [direction d_in]": truth, "dictionary [unit d_in]": dictionary}
    hint = "One number for each true direction."
    compare(answer, _nearest, inputs, mistakes, hint=hint)


def _explained(x: Tensor, x_hat: Tensor) -> Tensor:
    return 1 - (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()


@exercise
def explained_variance(answer: Any, rng: torch.Generator) -> None:
    """One minus squared error over squared distance from the mean."""
    x = torch.randn(30, 6, generator=rng) * torch.arange(1, 7) + 4
    x = x + 3 * torch.randn(6, generator=rng)
    x_hat = x + 0.7 * torch.randn(30, 6, generator=rng)
    error, centred = (x - x_hat).square(), (x - x.mean(0)).square()
    want = 1 - error.sum() / centred.sum()
    wrong_axis = (x - x.mean(1, keepdim=True)).square()
    mistakes = {
        "You measured the spread from zero. Measure it from the mean activation.": (
            1 - error.sum() / x.square().sum()
        ),
        "You took one mean over everything. The mean activation is a vector.": (
            1 - error.sum() / (x - x.mean()).square().sum()
        ),
        "You took the spread over the wrong axis: from each token's mean over its dimensions. The "
        "mean activation is the mean over tokens, `x.mean(0)`.": 1 - error.sum() / wrong_axis.sum(),
        "You took a ratio for each token, over the wrong axis. Sum over tokens and dimensions.": (
            (1 - error.sum(1) / wrong_axis.sum(1)).mean()
        ),
        "You took a ratio for each token. Sum over tokens and dimensions first, then divide.": (
            (1 - error.sum(1) / centred.sum(1)).mean()
        ),
        "That is the share that is *not* explained. Subtract it from 1.": 1 - want,
        "The ratio is upside down: the error stands above the line.": 1 - 1 / (1 - want),
        "You averaged the ratio over dimensions. Sum first, then divide.": (
            (1 - error.sum(0) / centred.sum(0)).mean()
        ),
        "You divided lengths. Variance has squares.": (
            1 - error.sum(-1).sqrt().sum() / centred.sum(-1).sqrt().sum()
        ),
        "You took the spread of the reconstruction. Take that of x.": (
            1 - error.sum() / (x_hat - x_hat.mean(0)).square().sum()
        ),
        "You divided by the variance with n - 1 below the line. Sum squares, or use n in both.": (
            1 - error.mean(0).sum() / x.var(0).sum()
        ),
    }
    inputs = {"x [token d_in]": x, "x_hat [token d_in]": x_hat}
    hint = "One number: sum over tokens and dimensions."
    compare(answer, _explained, inputs, mistakes, hint=hint)


def _detection(acts: Tensor, label: Tensor) -> Tensor:
    yes = acts > 0
    right = float((yes & label).sum())
    precision, recall = right / max(1, int(yes.sum())), right / max(1, int(label.sum()))
    return torch.tensor([precision, recall, 2 * precision * recall / (precision + recall or 1.0)])


@exercise
def detector_scores(answer: Any, rng: torch.Generator) -> None:
    """Precision, recall and F1 of a unit that says yes above zero."""
    label = torch.rand(60, generator=rng) < 0.3
    acts = torch.rand(60, generator=rng) * (torch.rand(60, generator=rng) < 0.15 + 0.5 * label)
    acts[:2], label[:2] = torch.tensor([1.0, 0.5]), torch.tensor([True, False])
    acts[2], label[2] = 0.0, True
    acts[3:15], label[3:15] = 0.3, False  # wrong more often than silent: precision below recall
    shuffled = torch.randperm(60, generator=rng)
    acts, label = acts[shuffled], label[shuffled]
    hint = "Return three numbers: precision, recall, F1."
    got = expect_shape(expect_parts(run(answer, acts, label), 3, hint), (3,), hint)
    want = _detection(acts, label)
    precision, recall, f1 = want.tolist()
    yes = acts > 0
    accuracy = float((yes == label).float().mean())
    mistakes = {
        "Precision and recall are exchanged.": [recall, precision, f1],
        "F1 is the harmonic mean of the two, not the plain one.": [
            precision,
            recall,
            (precision + recall) / 2,
        ],
        "F1 is twice the product over the sum. The two is missing.": [precision, recall, f1 / 2],
        "F1 is twice the product over the sum. You did not divide.": [
            precision,
            recall,
            2 * precision * recall,
        ],
        "You returned the accuracy, which silence would win.": [accuracy, recall, f1],
        "You weighted by the activation. The unit says yes or no.": [
            float(acts[label].sum() / acts.sum()),
            recall,
            f1,
        ],
        "You said yes where the activation is not negative. It must be above zero.": (
            _detection(acts + 1, label)
        ),
        "You said yes above one half. The unit says yes above zero.": _detection(acts - 0.5, label),
        "You scored the unit's silence: yes and no are exchanged.": _detection(
            (~yes).float(), ~label
        ),
    }
    example = functools.partial(
        smallest, answer, _detection, {"acts [token]": acts, "label [token]": label}
    )
    expect_close(got, want, mistakes, example=example)
    silent = run(answer, torch.zeros(9), label[:9])
    silent = expect_shape(expect_parts(silent, 3, hint), (3,), hint)
    refuse_if(bool((silent != 0.0).any()), "A unit that never fires should get zeros.")
