"""LEACE of notebook 13, as it stands there, against its paper's closed form and its library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mi_helpers import steering

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import peers  # noqa: E402

SOURCE = ROOT / "notebooks" / "src" / "13_behaviour_directions.py"
THEIRS = """
import sys, torch
from concept_erasure import LeaceEraser
x, z = torch.load(sys.argv[1] + "/in.pt")
eraser = LeaceEraser.fit(x, z, shrinkage=False, constrain_cov_trace=False)
torch.save(eraser(x), sys.argv[1] + "/out.pt")
"""


@pytest.fixture(scope="module")
def notebook():
    """The notebook's own functions: the cells that define them, run."""
    names = {"torch": torch, "steering": steering}
    cells = SOURCE.read_text(encoding="utf-8").split("\n# %%")
    for start in ("def without_span(", "def gap_of("):
        (cell,) = (cell for cell in cells if f"\n{start}" in cell)
        exec(cell.split("\n", 1)[1], names)
    return names


@pytest.fixture
def data():
    """Two classes of unequal size whose means differ along a direction that varies anyway."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(8, 8, generator=generator, dtype=torch.float64) + 3
    y = torch.rand(300, generator=generator) < 0.4
    shift = torch.randn(8, generator=generator, dtype=torch.float64)
    return x + y[:, None] * shift, y


def closed_form(x, y):
    """r(x) = x - W^+ P W (x - mean), with W = C^(-1/2) and P on the span of W cov(x, y)."""
    centred = x - x.mean(0)
    sizes, basis = torch.linalg.eigh(centred.T @ centred / len(x))
    W = basis @ torch.diag(sizes**-0.5) @ basis.T
    white = W @ (centred * (y.double() - y.double().mean())[:, None]).mean(0)
    P = torch.outer(white, white) / (white @ white)
    return x - centred @ (torch.linalg.pinv(W) @ P @ W).T


def test_leace_is_the_closed_form_of_its_paper(notebook, data):
    x, y = data
    assert torch.allclose(notebook["leace"](x, y)(x), closed_form(x, y), atol=1e-8)


def test_after_leace_means_coincide_and_least_squares_reads_nothing(notebook, data):
    x, y = data
    erased = notebook["leace"](x, y)(x)
    gap = x[y].mean(0) - x[~y].mean(0)
    assert (erased[y].mean(0) - erased[~y].mean(0)).norm() < 1e-8 * gap.norm()
    for acts, reads in ((x, True), (erased, False)):
        ones = torch.cat([acts, torch.ones(len(acts), 1, dtype=acts.dtype)], dim=1)
        weights = torch.linalg.lstsq(ones, y.double()[:, None]).solution
        guess = (ones @ weights)[:, 0]
        assert bool((guess - y.double().mean()).abs().max() > 1e-6) == reads


def test_leace_changes_less_than_projecting_out(notebook, data):
    x, y = data
    mean, gap = x.mean(0), x[y].mean(0) - x[~y].mean(0)
    projected = notebook["without_span"]([gap], mean)(x)
    assert (projected[y].mean(0) - projected[~y].mean(0)).norm() < 1e-8 * gap.norm()
    changes = [(other - x).square().sum() for other in (notebook["leace"](x, y)(x), projected)]
    assert changes[0] < 0.9 * changes[1]


@pytest.mark.slow
def test_leace_is_what_its_authors_library_does(notebook, data, tmp_path):
    """concept-erasure, without its shrinkage and its bound on the trace."""
    try:
        python = peers.python_of("concept-erasure")
    except peers.PeerError as err:
        pytest.skip(str(err))
    x, y = data
    torch.save((x, y.double()), tmp_path / "in.pt")
    done = subprocess.run(
        [str(python), "-c", THEIRS, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = torch.load(tmp_path / "out.pt")
    assert (notebook["leace"](x, y)(x) - theirs).abs().max() < 1e-5 < (theirs - x).abs().max()
