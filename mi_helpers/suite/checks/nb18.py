"""Checks of notebook 18: relative norms, the penalty by source, latent scaling, and
what units hold of a difference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import compare, exercise


def _halves(W_dec: Tensor, widths: Any) -> tuple[Tensor, Tensor]:
    one, two = W_dec.split([int(w) for w in widths], dim=1)
    return one, two


def _relative(W_dec: Tensor, widths: Any) -> Tensor:
    one, two = (part.norm(dim=1) for part in _halves(W_dec, widths))
    return two / (one + two)


@exercise
def relative_norms(answer: Any, rng: torch.Generator) -> None:
    """The second place's share of a unit's two decoder lengths."""
    for widths in ((3, 5), (4, 2)):
        W_dec = torch.randn(6, sum(widths), generator=rng)
        W_dec[0, : widths[0]] = 0.0
        one, two = _halves(W_dec, widths)
        a, b = one.norm(dim=1), two.norm(dim=1)
        middle = W_dec.shape[1] // 2
        mistakes = {
            "This is the first place's share. Take the second's.": a / (a + b),
            "You divided by the length of the whole row. Divide by the sum of both lengths.": (
                b / W_dec.norm(dim=1)
            ),
            "You took squared lengths. Take lengths.": b**2 / (a**2 + b**2),
            "You divided one length by the other, which has no upper end.": b / a,
            "You took sums of entries in place of lengths.": (
                two.abs().sum(1) / (one.abs().sum(1) + two.abs().sum(1))
            ),
            "The first place has widths[0] columns; you cut the rows in the middle.": (
                _relative(W_dec, (middle, W_dec.shape[1] - middle))
            ),
        }
        inputs = {f"W_dec [unit {sum(widths)}]": W_dec, "widths": widths}
        compare(answer, _relative, inputs, mistakes, hint="One number for each unit, from 0 to 1.")


def _penalty(f: Tensor, W_dec: Tensor, widths: Any) -> Tensor:
    one, two = (part.norm(dim=1) for part in _halves(W_dec, widths))
    return (f * (one + two)).sum(1).mean()


@exercise
def penalty(answer: Any, rng: torch.Generator) -> None:
    """Activations weighed by the sum of decoder lengths, mean over tokens."""
    for widths in ((3, 4), (5, 2)):
        f = torch.randn(5, 6, generator=rng).relu() + torch.rand(5, 6, generator=rng) * 0.1
        W_dec = torch.randn(6, 7, generator=rng)
        one, two = (part.norm(dim=1) for part in _halves(W_dec, widths))
        mistakes = {
            "You weighed by the length of the whole row. Add the lengths at both places.": (
                (f * W_dec.norm(dim=1)).sum(1).mean()
            ),
            "You did not weigh the activations by decoder lengths.": f.sum(1).mean(),
            "You took the mean over units as well. Sum over units.": (f * (one + two)).mean(),
            "You summed over tokens. Take the mean over them.": (f * (one + two)).sum(),
            "You weighed by the first place's length alone.": (f * one).sum(1).mean(),
            "You weighed by the second place's length alone.": (f * two).sum(1).mean(),
            "You weighed by squared lengths.": (f * (one**2 + two**2)).sum(1).mean(),
        }
        inputs = {"f [token unit]": f, "W_dec [unit 7]": W_dec, "widths": widths}
        compare(answer, _penalty, inputs, mistakes, hint="One number for the whole batch.")


def _scale(f: Tensor, direction: Tensor, target: Tensor) -> Tensor:
    return (f @ target @ direction) / (f.square().sum() * direction.square().sum())


@exercise
def latent_scale(answer: Any, rng: torch.Generator) -> None:
    """The factor with which a unit's writing explains a target best, in squared error."""
    f = torch.randn(8, generator=rng).relu() + 0.2 * torch.rand(8, generator=rng)
    direction = torch.randn(4, generator=rng)
    target = torch.randn(8, 4, generator=rng) + 0.7 * f[:, None] * direction
    along = target @ direction
    mistakes = {
        "You forgot that the direction has a length: divide by its square as well.": (
            f @ along / f.square().sum()
        ),
        "You forgot the unit's own strength: divide by the sum of its squares as well.": (
            f @ along / direction.square().sum()
        ),
        "You divided by the target's size. That is a share explained, or a cosine.": (
            f @ along / (f.norm() * target.norm() * direction.norm())
        ),
        "You divided by a length. Divide by its square, the sum of squares of what is written.": (
            f @ along / (f.norm() * direction.norm())
        ),
        "You divided one mean by another. Tokens count by how strong the unit is there, and the "
        "direction has a length.": along.mean() / f.mean(),
        "You took the mean projection. Tokens count by how strong the unit is there.": (
            along.mean() / (f.mean() * direction.square().sum())
        ),
        "This is the inverse: the target explained the unit.": (
            (f.square().sum() * direction.square().sum()) / (f @ along)
        ),
        "You centred first. The unit's writing is not centred.": (
            _scale(f - f.mean(), direction, target)
        ),
    }
    inputs = {"f [token]": f, "direction [d]": direction, "target [token d]": target}
    compare(answer, _scale, inputs, mistakes, hint="One number.")


def _held(f: Tensor, W_dec: Tensor, d: int, units: Any) -> Tensor:
    return f[:, units] @ (W_dec[units, d:] - W_dec[units, :d])


@exercise
def held_difference(answer: Any, rng: torch.Generator) -> None:
    """What some units write more in the second model than in the first."""
    for d, units in ((3, [4, 0, 2]), (4, [1, 5])):
        f = torch.randn(5, 6, generator=rng).relu() + torch.rand(5, 6, generator=rng) * 0.1
        W_dec = torch.randn(6, 2 * d, generator=rng)
        mistakes = {
            "The sign is turned: take the second model's row less the first's.": (
                -_held(f, W_dec, d, units)
            ),
            "This is what the units write in the second model. Take the first's away.": (
                f[:, units] @ W_dec[units, d:]
            ),
            "You took all units. Take the given ones.": _held(f, W_dec, d, list(range(6))),
            "You added the two rows. Take their difference.": (
                f[:, units] @ (W_dec[units, d:] + W_dec[units, :d])
            ),
            "You left the activations out.": (
                (W_dec[units, d:] - W_dec[units, :d]).sum(0).expand(5, d)
            ),
        }
        inputs = {"f [token unit]": f, "W_dec [unit 2d]": W_dec, "d": d, "units": units}
        compare(answer, _held, inputs, mistakes, hint="One row of length d for each token.")
