"""One training step beside SAELens's: the same weights, the same batch, its losses and gradients.

What differs is asserted too. `mi_helpers.sae.Recipe` says it in words.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mi_helpers import sae as S
from mi_helpers.sae.step import batch_loss

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

import peers  # noqa: E402

D_IN, D_SAE, BATCH, K, LIMIT = 16, 48, 64, 4, 1e-5
COMMON = {"d_sae": D_SAE, "k": K, "l1": 0.7, "l0": 0.9, "bandwidth": 0.4, "aux": 1 / 32}
OURS = {
    "relu": S.Recipe("relu", **COMMON),
    "jumprelu": S.Recipe("jumprelu", **COMMON),
    "gated": S.Recipe("gated", **COMMON),
    "batchtopk": S.Recipe("batchtopk", **COMMON),
    "matryoshka": S.Recipe("batchtopk", prefixes=(12, 24), **COMMON),
}
OURS |= {f"{kind}, some dead": OURS[kind] for kind in ("batchtopk", "matryoshka")}
TOPK = {"k": K, "aux_loss_coefficient": 1 / 32}
SETTINGS = {
    "jumprelu": {"jumprelu_bandwidth": 0.4},
    "batchtopk": TOPK,
    "matryoshka": TOPK | {"matryoshka_widths": [12, 24, D_SAE]},
}
"""Nothing else is changed from its defaults; the input is centred by the decoder's bias."""
LEVELS = 3  # of matryoshka


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights(kind: str) -> dict[str, torch.Tensor]:
    """Encoder and decoder that are no transposes, rows of length 1, no bias zero."""
    p = {
        "W_enc": 0.5 * random(D_IN, D_SAE, seed=0),
        "b_enc": 0.2 * random(D_SAE, seed=1),
        "W_dec": torch.nn.functional.normalize(random(D_SAE, D_IN, seed=2)),
        "b_dec": 0.3 * random(D_IN, seed=3),
    }
    if kind == "jumprelu":
        p["log_threshold"] = -0.5 + 0.2 * random(D_SAE, seed=4)
    if kind == "gated":
        p |= {"b_gate": 0.2 * random(D_SAE, seed=5), "r_mag": 0.2 * random(D_SAE, seed=6)}
    return p


def in_their_names(kind: str, p: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A threshold itself in place of its logarithm; the strength's bias of a gated unit."""
    p = dict(p)
    if kind == "jumprelu":
        p["threshold"] = p.pop("log_threshold").exp()
    if kind == "gated":
        p["b_mag"] = p.pop("b_enc")
    return p


X = 1.5 * random(BATCH, D_IN, seed=7) + 0.2


def dead(case: str) -> torch.Tensor:
    return (torch.arange(D_SAE) % 8 == 3) & case.endswith("dead")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """What SAELens says of one step, for each case; skips where it has no environment."""
    try:
        python = peers.python_of("sae-lens")
    except peers.PeerError as err:
        pytest.skip(str(err))
    top = tmp_path_factory.mktemp("steps")
    coefficients = {"l1": COMMON["l1"], "l0": COMMON["l0"]}
    for case in OURS:
        kind = case.partition(",")[0]
        parts = in_their_names(kind, weights(kind)) | {"x": X, "dead": dead(case).int()}
        (top / case).mkdir()
        save_file({n: t.contiguous() for n, t in parts.items()}, top / case / "in.safetensors")
        job = {"kind": kind, "settings": SETTINGS.get(kind, {}), "coefficients": coefficients}
        (top / case / "in.json").write_text(json.dumps(job), encoding="utf-8")
    script = [str(python), str(HERE / "saelens_side.py"), "step"]
    script += [str(top / case) for case in OURS]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return {case: load_file(top / case / "out.safetensors") for case in OURS}


def ours(case: str) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Total loss, squared error, and the gradients in their names."""
    kind = case.partition(",")[0]
    p = {name: value.requires_grad_() for name, value in weights(kind).items()}
    loss = batch_loss(p, X, OURS[case], 1.0, dead(case))
    grads = dict(zip(p, torch.autograd.grad(loss.total, list(p.values())), strict=True))
    if kind == "jumprelu":  # by the threshold: d log t = dt / t
        grads["threshold"] = grads.pop("log_threshold") / p["log_threshold"].exp()
    if kind == "gated":
        grads["b_mag"] = grads.pop("b_enc")
    return loss.total.detach(), loss.error, {name: g.detach() for name, g in grads.items()}


def gap(mine: torch.Tensor, hers: torch.Tensor) -> float:
    """Largest difference over largest entry."""
    return float((mine - hers).abs().max() / hers.abs().max())


def across(grad: torch.Tensor) -> torch.Tensor:
    """The part of a gradient of `W_dec` that turns its rows; ours keep their length."""
    rows = weights("relu")["W_dec"]
    return grad - (grad * rows).sum(-1, keepdim=True) * rows


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in OURS if not case.endswith("dead")])
def test_the_loss_and_gradients_of_a_step_are_saelenss(theirs, case: str) -> None:
    """All; but Matryoshka's levels are summed there, and a gate moves the decoder there."""
    total, error, grads = ours(case)
    hers = {name[5:]: g for name, g in theirs[case].items() if name.startswith("grad.")}
    levels = LEVELS if case == "matryoshka" else 1
    assert 0.01 < (theirs[case]["features"] > 0).float().mean() < 0.9
    assert gap(error, theirs[case]["loss.mse_loss"]) < LIMIT
    assert gap(levels * total, theirs[case]["loss"]) < LIMIT
    assert (gap(total, error) > 0.01) == (case != "batchtopk"), "no penalty, no levels"
    assert set(grads) == set(hers)
    for name, mine in grads.items():
        turns = across if name == "W_dec" else torch.clone
        same = gap(levels * turns(mine), turns(hers[name])) < LIMIT
        assert same == (case != "gated" or name not in ("W_dec", "b_dec")), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka"])
def test_dead_units_explain_the_rest_by_their_positive_part_alone(theirs, kind: str) -> None:
    """SAELens lets them be negative there. Its weight among the levels of Matryoshka is less."""
    case = f"{kind}, some dead"
    total, levels = ours(case)[0], LEVELS if kind == "matryoshka" else 1
    p, which, hers = weights(kind), dead(case), theirs[case]
    pre = ((X - p["b_dec"]) @ p["W_enc"] + p["b_enc"])[:, which]
    rest = X - hers["features"] @ p["W_dec"] - p["b_dec"]
    ways = {"ours": pre.relu(), "theirs": pre}
    weight = COMMON["aux"] * int(which.sum()) / (D_IN // 2)
    leftover = {
        name: weight * (f @ p["W_dec"][which] - rest).square().sum(-1).mean()
        for name, f in ways.items()
    }
    assert gap(leftover["theirs"], hers["loss.auxiliary_reconstruction_loss"]) < LIMIT
    fit = (hers["loss"] - leftover["theirs"]) / levels
    assert gap(total, fit + leftover["ours"]) < LIMIT
    assert gap(leftover["ours"], leftover["theirs"]) > 0.1
