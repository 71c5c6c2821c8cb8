"""The fast training step against the plain one: whole matrices, autograd, torch's own Adam."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mi_helpers import sae as S
from mi_helpers.sae import step

D_IN, D_SAE, BATCH = 12, 64, 96


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stream() -> SimpleNamespace:
    """Activations that a run can be started on, handed out in order."""
    acts = random(6 * BATCH, D_IN, seed=1) @ random(D_IN, D_IN, seed=2) + 1

    def batch(size: int, place: tuple[int, int]) -> tuple[torch.Tensor, tuple[int, int]]:
        return acts[place[1] : place[1] + size], (0, place[1] + size)

    return SimpleNamespace(
        chunk=lambda n: acts, batch=batch, hook="", model_id="", notes={}, identity="same",
        device=torch.device("cpu"), target="", widths=((D_IN,), ()),
    )  # fmt: skip


def plain_training(run: S.Training, steps: int) -> dict[str, torch.Tensor]:
    """What the recipe says, with nothing made fast: the tensors after so many steps."""
    recipe, silent = run.recipe, torch.zeros(D_SAE)
    p = {name: value.clone().contiguous().requires_grad_() for name, value in run.p.items()}
    adam = torch.optim.Adam(p.values(), fused=False, foreach=False)
    lengths: list[float] = []
    for done in range(steps):
        x = run.stream.batch(BATCH, (0, done * BATCH))[0] * run.scale
        dead = silent > recipe.dead_after
        loss = step.batch_loss(p, x, recipe, recipe.penalty_scale(done), dead, dense=True)
        adam.zero_grad()
        loss.total.backward()
        with torch.no_grad():
            along = (p["W_dec"].grad * p["W_dec"]).sum(-1, keepdim=True)
            p["W_dec"].grad -= along * p["W_dec"]
            length = sum(one.grad.square().sum() for one in p.values()).sqrt()
            lengths.append(float(length))
            for one in p.values():
                one.grad *= min(1.0, recipe.clip / float(length))
        adam.param_groups[0]["lr"] = recipe.rate(done)
        adam.step()
        with torch.no_grad():
            p["W_dec"] /= p["W_dec"].norm(dim=-1, keepdim=True)
        silent = torch.where(loss.active > 0, 0, silent + BATCH)
    assert max(lengths) > recipe.clip, "nothing was clipped"
    return {name: value.detach() for name, value in p.items()}


@pytest.mark.parametrize(
    ("kind", "prefixes"), [(k, ()) for k in S.ARCHITECTURES] + [("topk", (8,)), ("batchtopk", (8,))]
)
def test_the_fast_way_trains_as_the_plain_one(kind: str, prefixes: tuple[int, ...]) -> None:
    recipe = S.Recipe(
        kind, d_sae=D_SAE, k=4, l1=3.0, l0=1.0, steps=6, batch=BATCH, lr=3e-3, dead_after=BATCH,
        prefixes=prefixes,
    )  # fmt: skip
    run = S.start(stream(), recipe)
    before = {name: value.clone() for name, value in run.p.items()}
    want = plain_training(run, 6)
    S.train(run, progress=False)
    for name, value in run.p.items():
        moved = (want[name] - before[name]).abs().max()
        assert moved > 1e-3, name
        assert (value - want[name]).abs().max() < 1e-2 * moved, name


@pytest.mark.parametrize("bias", [-9.0, 0.0])
def test_few_or_many_active_units_give_the_same(bias: float) -> None:
    """Relu's list is short with a low bias; with none, the whole matrix is used."""
    recipe = S.Recipe("relu", d_sae=D_SAE, l1=0.3)
    W_dec = random(D_SAE, D_IN)
    p = {"W_enc": W_dec.T, "b_enc": torch.full((D_SAE,), bias), "W_dec": W_dec,
         "b_dec": random(D_IN, seed=3)}  # fmt: skip
    p = {name: value.detach().clone().requires_grad_() for name, value in p.items()}
    x, dead = random(BATCH, D_IN, seed=4), torch.zeros(D_SAE, dtype=torch.bool)
    share, found = None, {}
    for dense in (None, True):
        loss = step.batch_loss(p, x, recipe, 1.0, dead, dense=dense)
        share = float(loss.active.sum()) / (BATCH * D_SAE)
        found[dense] = (loss, *torch.autograd.grad(loss.total, list(p.values())))
    assert (0 < share < step.MOST_ACTIVE / 2) if bias else share > 2 * step.MOST_ACTIVE
    assert torch.equal(found[None][0].active, found[True][0].active)
    for mine, plain in zip(found[None][1:], found[True][1:], strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_a_saved_run_lies_in_memory_as_a_new_one(kind: str, tmp_path) -> None:
    """Else the sums of a resumed run would round differently on some machines."""
    run = S.start(stream(), S.Recipe(kind, d_sae=D_SAE, k=4, steps=4, batch=BATCH))
    S.train(run, 2, progress=False)
    again = S.resume(run.save(tmp_path / "run.safetensors"), run.stream)
    for mine, other in ((run.p, again.p), (run.moments, again.moments)):
        for name, value in mine.items():
            assert torch.equal(value, other[name]) and value.stride() == other[name].stride(), name
    assert run.sae().W_enc.is_contiguous()


def test_jumprelu_has_the_papers_pseudo_derivatives() -> None:
    """Rajamanoharan et al. 2024, equations 11 and 12, with a rectangle of width eps as kernel.

    d JumpReLU / d theta = -(theta / eps) K((z - theta) / eps), d H / d theta = -(1 / eps) K(...).
    """
    eps, theta = 0.4, 0.5
    z = torch.tensor([-1.0, 0.29, 0.31, 0.49, 0.51, 0.69, 0.71, 2.0], requires_grad=True)
    inside = torch.tensor([0.0, 0, 1, 1, 1, 1, 0, 0])  # |z - theta| < eps / 2
    above = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1])
    weight = torch.arange(1.0, 9)  # what comes from the loss

    thresholds = torch.full((8,), theta, requires_grad=True)
    value = step._Jump.apply(z, thresholds, eps)
    torch.testing.assert_close(value, z * above)
    to_z, to_theta = torch.autograd.grad((weight * value).sum(), [z, thresholds])
    torch.testing.assert_close(to_z, weight * above)
    torch.testing.assert_close(to_theta, -theta / eps * inside * weight)

    counted = step._Step.apply(z.detach(), thresholds, eps)
    torch.testing.assert_close(counted, above)
    (to_theta,) = torch.autograd.grad((weight * counted).sum(), thresholds)
    torch.testing.assert_close(to_theta, -1 / eps * inside * weight)


def test_jumprelu_learns_the_logarithm_of_its_threshold() -> None:
    """So a unit's loss meets theta x the paper's derivative: by hand, for one unit and input."""
    recipe = S.Recipe("jumprelu", d_sae=1, l0=0.7, bandwidth=0.4)
    p = {"W_enc": torch.eye(1), "b_enc": torch.zeros(1), "W_dec": torch.eye(1),
         "b_dec": torch.zeros(1), "log_threshold": torch.tensor([0.5]).log()}  # fmt: skip
    p = {name: value.requires_grad_() for name, value in p.items()}
    x, theta = torch.tensor([[0.6]]), 0.5
    for dense in (True, False):
        loss = step.batch_loss(p, x, recipe, 0.3, torch.zeros(1, dtype=torch.bool), dense=dense)
        (got,) = torch.autograd.grad(loss.total, p["log_threshold"])
        to_value = 2 * (0.6 - 0.6)  # x_hat = x: the error has no slope here
        by_hand = theta * (to_value * -theta / 0.4 + 0.3 * 0.7 * -1 / 0.4)
        assert got.item() == pytest.approx(by_hand, rel=1e-5) and by_hand < -0.2


ON_AND_OFF = torch.zeros(2, dtype=torch.bool)


@pytest.mark.parametrize("dense", [True, False])
def test_a_gates_loss_by_hand(dense: bool) -> None:
    """One direction, two biases: strength, penalty on the gate, what the gate alone rebuilds."""
    recipe = S.Recipe("gated", d_sae=2, l1=0.5)
    p = {"W_enc": torch.eye(2), "b_enc": torch.tensor([1.0, 5.0]), "W_dec": torch.eye(2),
         "b_dec": torch.zeros(2), "b_gate": torch.tensor([-1.0, -4.0]),
         "r_mag": torch.tensor([2.0, 1.0]).log()}  # fmt: skip
    p = {name: value.requires_grad_() for name, value in p.items()}
    x = torch.tensor([[3.0, 2.0]])
    # gates 3 - 1 = 2 and 2 - 4 < 0; strength 2 * 3 + 1 = 7 and nothing, though 2 + 5 > 0
    loss = step.batch_loss(p, x, recipe, 1.0, ON_AND_OFF, dense=dense)
    assert loss.active.tolist() == [1, 0]
    assert float(loss.error) == pytest.approx((7 - 3) ** 2 + (0 - 2) ** 2)
    alone = (2 - 3) ** 2 + (0 - 2) ** 2
    assert float(loss.total.detach()) == pytest.approx(float(loss.error) + 0.5 * 2 + alone)
    grads = dict(zip(p, torch.autograd.grad(loss.total, list(p.values())), strict=True))
    # the gate's bias: the penalty and what it alone rebuilds, nothing of the strength's error
    assert grads["b_gate"].tolist() == pytest.approx([0.5 + 2 * (2 - 3), 0.0])
    assert grads["b_enc"].tolist() == pytest.approx([2 * (7 - 3), 0.0])
    assert grads["r_mag"].tolist() == pytest.approx([2 * (7 - 3) * 2 * 3, 0.0])
    # the decoder hears of the strength's error alone: f times (x_hat - x), twice
    assert grads["W_dec"][0].tolist() == pytest.approx([2 * 7 * 4, 2 * 7 * -2])
    assert grads["W_dec"][1].tolist() == [0, 0]


@pytest.mark.parametrize("dense", [True, False])
def test_nested_losses_by_hand(dense: bool) -> None:
    """The mean over prefixes; a unit inside hears of every prefix that holds it."""
    p = {"W_enc": torch.eye(3), "b_enc": torch.zeros(3), "W_dec": torch.eye(3),
         "b_dec": torch.tensor([0.0, 0.0, 0.5])}  # fmt: skip
    p = {name: value.requires_grad_() for name, value in p.items()}
    x = torch.tensor([[3.0, 2.0, 2.0]])
    recipe = S.Recipe("topk", d_sae=3, k=2, prefixes=(1,), aux=0.0)
    # f = (3, 2, 0): all rebuild (3, 2, 0.5), the first alone (3, 0, 0.5)
    dead = torch.zeros(3, dtype=torch.bool)
    loss = step.batch_loss(p, x, recipe, 1.0, dead, dense=dense)
    assert float(loss.error) == pytest.approx(1.5**2), "reported is what all rebuild"
    assert float(loss.total.detach()) == pytest.approx((1.5**2 + 2**2 + 1.5**2) / 2)
    (to_dec,) = torch.autograd.grad(loss.total, p["W_dec"])
    assert to_dec[0].tolist() == pytest.approx([0, 3 * -2.0, 3 * (-1.5 - 1.5)])
    assert to_dec[1].tolist() == pytest.approx([0, 0, 2 * -1.5]), "no word of the prefix's error"
    assert to_dec[2].tolist() == [0, 0, 0]


def test_dead_units_explain_what_is_left_with_positive_parts_alone() -> None:
    p = {"W_enc": torch.eye(4), "b_enc": torch.zeros(4), "W_dec": torch.eye(4),
         "b_dec": torch.zeros(4)}  # fmt: skip
    x = torch.tensor([[2.0, -3.0, 1.0, -1.0]])
    rest = torch.tensor([[2.0, -3.0, 0.0, 0.0]])
    dead = torch.tensor([True, True, False, False])
    got = step._leftover(p, x, rest, dead)
    assert float(got) == pytest.approx(9.0), "unit 1 is negative, so it says nothing"


def test_no_two_starts_share_rows() -> None:
    """Else what two widths have in common would say nothing of the activations."""
    recipes = [S.Recipe("relu", d_sae=n, seed=seed) for n, seed in ((64, 0), (64, 1), (128, 0))]
    one, again, other_seed, wider = (
        S.start(stream(), recipe).sae().W_dec for recipe in (recipes[0], *recipes)
    )
    assert torch.equal(one, again)
    for other in (other_seed, wider):
        assert (one @ other.T).max() < 0.99


@pytest.mark.parametrize(
    ("n", "k"), [(1536, 32), (768, 16), (1024, 1), (100, 7), (63, 4), (32, 32), (8, 1)]
)
def test_each_rows_largest_are_found_in_order(n: int, k: int) -> None:
    values = random(37, n)
    values[5] = values[5].sort().values  # all of them in one group
    want = values.topk(k).indices.sort().values + n * torch.arange(37)[:, None]
    assert torch.equal(step.largest_of_rows(values, k), want.flatten())


@pytest.mark.parametrize("spoilt", [0.0, torch.nan])
def test_equal_values_and_nan_still_give_k_of_each_row(spoilt: float) -> None:
    values = random(9, 768)
    values[2], values[4, ::2] = spoilt, spoilt
    place = step.largest_of_rows(values, 16)
    assert torch.equal(place // 768, torch.arange(9).repeat_interleave(16))
    assert len(place.unique()) == len(place)
