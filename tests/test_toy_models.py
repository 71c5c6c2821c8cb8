"""Toy models of superposition: worlds, measures on known geometries, and the phenomena."""

from __future__ import annotations

import math

import pytest
import torch

from mi_helpers import figures
from mi_helpers.toys import superposition as T


def polygon(n: int) -> torch.Tensor:
    angle = torch.arange(n) * 2 * math.pi / n
    return torch.stack([angle.cos(), angle.sin()], -1)


@pytest.mark.parametrize(
    ("W", "share"),
    [
        (torch.eye(2), 1.0),
        (polygon(2), 1 / 2),
        (polygon(3), 2 / 3),
        (polygon(5), 2 / 5),
        (torch.cat([polygon(2), 3 * torch.tensor([[0.0, 1.0]])])[2:], 1.0),
    ],
)
def test_dimensionality_of_known_polygons(W: torch.Tensor, share: float) -> None:
    torch.testing.assert_close(T.dimensionality(W), torch.full((len(W),), share))


def test_interference_of_known_directions() -> None:
    W = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.6, 0.8]])
    torch.testing.assert_close(T.interference(W), torch.tensor([0.36, 0.64, 0.36 + 2.56]))
    assert T.interference(torch.eye(3)).abs().max() == 0
    torch.testing.assert_close(T.interference(torch.stack([W, W]))[1], T.interference(W))


def test_a_feature_without_direction_has_no_dimension() -> None:
    W = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert T.dimensionality(W).tolist() == [1, 0] and T.represented(W).tolist() == [True, False]


def test_features_per_neuron() -> None:
    W = torch.tensor([[1.0, 1.0, 3.0], [0.0, -1.0, 0.0], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(T.features_per_neuron(W), torch.tensor([1.0, 3.0, 1.0]))


@pytest.mark.parametrize("pairing", T.PAIRINGS)
def test_worlds_keep_their_density_and_pair_as_told(pairing: str) -> None:
    density = torch.tensor([[0.3] * 4, [0.1] * 4])
    x = T.draw_features(density, 20_000, torch.Generator().manual_seed(0), pairing)
    on = x > 0
    torch.testing.assert_close(on.float().mean(1), density, atol=0.02, rtol=0)
    both = (on[..., 0] & on[..., 1]).float().mean(1)
    apart = (on[..., 0] & on[..., 2]).float().mean(1)
    want = {"independent": density[:, 0] ** 2, "correlated": density[:, 0]}
    torch.testing.assert_close(both, want.get(pairing, torch.zeros(2)), atol=0.02, rtol=0)
    torch.testing.assert_close(apart, density[:, 0] ** 2, atol=0.02, rtol=0)
    assert 0.45 < x[on].mean() < 0.55


def test_sparse_features_are_put_in_superposition_and_dense_ones_are_not() -> None:
    density = torch.tensor([[1.0] * 5, [0.05] * 5])
    found = T.train_bottleneck(density, 2, steps=600, tries=3)
    kept = T.represented(found.W).sum(-1)
    assert kept.tolist() == [2, 5]
    linear = T.train_bottleneck(density, 2, steps=600, linear=True)
    assert (linear.W.square().sum((1, 2)) < 2.3).all(), "no more than two dimensions' worth"
    assert found.loss[1] < 0.6 * linear.loss[1]


def test_training_is_reproducible_and_leaves_the_global_state() -> None:
    density = torch.full((2, 4), 0.2)
    state = torch.get_rng_state()
    one, two = (T.train_bottleneck(density, 2, steps=30) for _ in range(2))
    assert torch.equal(one.W, two.W) and torch.equal(torch.get_rng_state(), state)
    other = T.train_bottleneck(density, 2, steps=30, seed=1)
    assert not torch.allclose(one.W, other.W)


def test_the_best_of_several_tries_is_kept() -> None:
    density = torch.full((3, 5), 0.05)
    one = T.train_bottleneck(density, 2, steps=200)
    best = T.train_bottleneck(density, 2, steps=200, tries=4)
    assert best.W.shape == (3, 5, 2) and (best.loss <= one.loss + 0.01).all()


def test_absolute_value_is_learned_when_there_are_neurons_enough() -> None:
    density = torch.tensor([[0.5] * 3])
    enough = T.train_absolute_value(density, 12, steps=800)
    few = T.train_absolute_value(density, 2, steps=800)
    assert enough.loss[0] < 0.02 < 0.1 < few.loss[0]
    x = torch.tensor([[[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]]])
    torch.testing.assert_close(enough(x), x.abs(), atol=0.15, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(density=torch.zeros(1, 3)), "above 0"),
        (dict(density=torch.ones(3)), r"\[instance, feature\]"),
        (dict(density=torch.ones(1, 4), pairing="anticorrelated"), "at most 0.5"),
        (dict(density=torch.ones(1, 3), importance=torch.ones(1, 2)), "importance the"),
        (dict(density=torch.ones(1, 3), importance=-torch.ones(1, 3)), "not be negative"),
        (dict(density=torch.ones(1, 3), steps=0), "at least 1"),
        (dict(density=torch.ones(1, 3), pairing="twins"), "twins"),
        (dict(density=torch.ones(1, 3), pairing="correlated"), "even number"),
    ],
)
def test_impossible_worlds_are_refused(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        T.train_bottleneck(**{"d_hidden": 2, "steps": 1, **arguments})


def test_arrows_end_where_the_directions_do_and_keep_their_colour() -> None:
    W = torch.stack([polygon(3), 0.5 * polygon(3)])
    fig = figures.vectors(W, title="two", facets=["long", "short"], labels=["a", "b", "c"])
    arrows = [trace for trace in fig.data if trace.mode == "lines+markers"]
    ends = torch.tensor([[trace.x[1], trace.y[1]] for trace in arrows])
    torch.testing.assert_close(ends, W.flatten(0, 1))
    assert [trace.line.color for trace in arrows[:3]] == [t.line.color for t in arrows[3:]]
    assert [trace.name for trace in arrows if trace.showlegend] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (dict(directions=torch.ones(3, 3)), r"3, 3\]"),
        (dict(directions=torch.full((3, 2), math.nan)), "NaN|nan|finite"),
        (dict(directions=torch.ones(3, 2), labels=["a"]), "3 labels"),
    ],
)
def test_arrows_that_cannot_be_drawn_are_refused(bad: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        figures.vectors(**bad, title="bad")
