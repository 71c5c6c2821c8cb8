"""Checks of notebook 10: BatchTopK, cosines, variance, recovered loss, a unit as a detector."""

from __future__ import annotations

from typing import Any

import torch

from mi_helpers.exercises import exercise, expect_close, expect_shape, refuse_if, run


@exercise
def batch_topk(answer: Any, rng: torch.Generator) -> None:
    """The k n largest of a batch of n."""
    pre = torch.randn(6, 9, generator=rng) * torch.tensor([3.0, 1, 1, 0.4, 0.4, 0.1])[:, None]
    pre[5] = -pre[5].abs()
    got = run(answer, pre, 2)
    expect_shape(got, (6, 9), hint="Zeros where nothing is kept, the shape stays.")

    def keep(values: torch.Tensor, count: int, dim: int | None = None) -> torch.Tensor:
        flat = values.flatten() if dim is None else values
        top = flat.topk(count, dim=-1 if dim is None else dim)
        kept = torch.zeros_like(flat).scatter(-1 if dim is None else dim, top.indices, top.values)
        return kept.view_as(values)

    want = keep(pre.relu(), 12)
    mistakes = {
        "You kept k units of every input: that is TopK. Count over the whole batch.": keep(
            pre.relu(), 2, 1
        ),
        "You kept k units of the whole batch. It is k for each input: k times n.": keep(
            pre.relu(), 2
        ),
        "You kept the largest by size. Only positive activations count.": keep(pre.abs(), 12)
        * pre.sign(),
        "You kept the largest inputs of each unit. Count over the whole batch.": keep(
            pre.relu(), 2, 0
        ),
        "You returned the mask. Return the activations where it is true.": (want > 0).float(),
    }
    expect_close(got, want, mistakes)
    few = -torch.rand(4, 5, generator=rng)
    few[0, 0] = 1.0
    got = run(answer, few, 2)
    refuse_if(
        bool((got < 0).any()),
        "With few positive activations you kept negative ones. Those count as zero.",
    )
    expect_close(got, few.relu())


@exercise
def nearest_cosine(answer: Any, rng: torch.Generator) -> None:
    """For each true direction the largest cosine with a row of the dictionary."""
    truth = torch.randn(5, 8, generator=rng) * torch.arange(1, 6)[:, None]
    dictionary = torch.randn(9, 8, generator=rng) * torch.linspace(0.3, 2, 9)[:, None]
    dictionary[4] = -2 * truth[1]
    given = truth.clone(), dictionary.clone()
    got = run(answer, truth, dictionary)
    expect_shape(got, (5,), hint="One number for each true direction.")
    refuse_if(
        not (torch.equal(given[0], truth) and torch.equal(given[1], dictionary)),
        "You changed the inputs in place. Divide into new tensors.",
    )
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
        "You returned the number of the unit. Return its cosine.": cosines.argmax(1).float(),
    }
    expect_close(got, cosines.amax(1), mistakes)


@exercise
def explained_variance(answer: Any, rng: torch.Generator) -> None:
    """One minus squared error over squared distance from the mean."""
    x = torch.randn(30, 6, generator=rng) * torch.arange(1, 7) + 4
    x_hat = x + 0.7 * torch.randn(30, 6, generator=rng)
    got = run(answer, x, x_hat)
    if not isinstance(got, torch.Tensor):
        got = torch.as_tensor(float(got))
    expect_shape(got, (), hint="One number: sum over tokens and dimensions.")
    error, centred = (x - x_hat).square(), (x - x.mean(0)).square()
    want = 1 - error.sum() / centred.sum()
    mistakes = {
        "You measured the spread from zero. Measure it from the mean activation.": (
            1 - error.sum() / x.square().sum()
        ),
        "You took one mean over everything. The mean activation is a vector.": (
            1 - error.sum() / (x - x.mean()).square().sum()
        ),
        "That is the share that is *not* explained. Subtract it from 1.": 1 - want,
        "You averaged the ratio over dimensions. Sum first, then divide.": (
            (1 - error.sum(0) / centred.sum(0)).mean()
        ),
        "You divided lengths. Variance has squares.": (
            1 - error.sum(-1).sqrt().sum() / centred.sum(-1).sqrt().sum()
        ),
        "You took the spread of the reconstruction. Take that of x.": (
            1 - error.sum() / (x_hat - x_hat.mean(0)).square().sum()
        ),
    }
    expect_close(got, want, mistakes)


@exercise
def loss_recovered(answer: Any, rng: torch.Generator) -> None:
    """From 1, nothing lost, to 0, as bad as the ablation."""
    clean, first, second = (float(v) for v in 1 + torch.rand(3, generator=rng))
    spliced, ablated = clean + 0.3 * first, clean + 2 * second
    got = run(answer, clean, spliced, ablated)
    got = got if isinstance(got, torch.Tensor) else torch.as_tensor(float(got))
    expect_shape(got, (), hint="One number.")
    lost = (spliced - clean) / (ablated - clean)
    mistakes = {
        "That is the share that is lost. Subtract it from 1.": lost,
        "Costs are measured from the clean loss, not from zero.": 1 - spliced / ablated,
        "You compared with the spliced loss. Compare with the ablated one.": clean / spliced,
        "Clean and ablated are exchanged.": (spliced - clean) / (clean - ablated),
    }
    expect_close(got, torch.tensor(1 - lost), {m: torch.tensor(v) for m, v in mistakes.items()})


@exercise
def detector_scores(answer: Any, rng: torch.Generator) -> None:
    """Precision, recall and F1 of a unit that says yes above zero."""
    label = torch.rand(60, generator=rng) < 0.3
    acts = torch.rand(60, generator=rng) * (torch.rand(60, generator=rng) < 0.15 + 0.5 * label)
    acts[:2], label[:2] = torch.tensor([1.0, 0.5]), torch.tensor([True, False])
    acts[2], label[2] = 0.0, True
    acts[3:15], label[3:15] = 0.3, False  # wrong more often than silent: precision below recall
    got = run(answer, acts, label)
    refuse_if(
        not isinstance(got, (tuple, list, torch.Tensor)) or len(got) != 3,
        "Return three numbers: precision, recall, F1.",
    )
    got = torch.stack([torch.as_tensor(float(item)) for item in got])
    yes = acts > 0
    right = float((yes & label).sum())
    precision, recall = right / float(yes.sum()), right / float(label.sum())
    f1 = 2 * precision * recall / (precision + recall)
    accuracy = float((yes == label).float().mean())
    mistakes = {
        "Precision and recall are exchanged.": [recall, precision, f1],
        "F1 is the harmonic mean of the two, not the plain one.": [
            precision,
            recall,
            (precision + recall) / 2,
        ],
        "F1 is twice the product over the sum. The two is missing.": [precision, recall, f1 / 2],
        "You returned the accuracy, which silence would win.": [accuracy, recall, f1],
        "You weighted by the activation. The unit says yes or no.": [
            float(acts[label].sum() / acts.sum()),
            recall,
            f1,
        ],
    }
    expect_close(
        got,
        torch.tensor([precision, recall, f1]),
        {message: torch.tensor(value) for message, value in mistakes.items()},
    )
    silent = run(answer, torch.zeros(9), label[:9])
    refuse_if(
        any(float(item) != 0.0 for item in silent), "A unit that never fires should get zeros."
    )
