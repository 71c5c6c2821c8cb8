"""Our edge attribution beside EAP-IG's authors' library: the same scores of the same edges."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mi_helpers.circuits import EdgeGraph, edge_attribution
from mi_helpers.metrics import LogitDiff
from mi_helpers.patching import At, Integrated, OtherRun

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

import peers  # noqa: E402

TEXT = "{} and {} went to the shop. {} gave the ball to"
NAMES = [("John", "Mary"), ("Mary", "John"), ("Mary", "Tom")]
METHODS = {
    "EAP": ("EAP", None),
    "EAP-IG": ("EAP-IG-inputs", 5),
    "EAP-IG, 40 steps": ("EAP-IG-inputs", 40),
}


class FromTheCorruptEnd:
    """Where the library takes gradients: at the corrupt input first, and never at the clean one."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def points(self) -> list[float]:
        return [1 - step / self.steps for step in range(self.steps)]


@pytest.fixture(scope="module")
def both(_pocket, tmp_path_factory):
    """What gives our scores, by the points of gradients; and the library's, in our layout."""
    try:
        python = peers.python_of("eap-ig")
    except peers.PeerError as err:
        pytest.skip(str(err))
    folder = tmp_path_factory.mktemp("eap-ig")
    clean, corrupt = ([TEXT.format(*pair, pair[i]) for pair in NAMES] for i in (0, 1))
    answers = [[_pocket.to_single_token(f" {name}") for name in (b, a)] for a, b in NAMES]
    job = {"clean": clean, "corrupt": corrupt, "answers": answers, "methods": METHODS}
    (folder / "in.json").write_text(json.dumps(job), encoding="utf-8")
    script = [str(python), str(HERE / "eap_ig_side.py"), str(folder)]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = load_file(folder / "out.safetensors")
    runs = [_pocket.to_tokens(texts) for texts in (clean, corrupt)]
    assert torch.equal(runs[0], theirs["clean"]) and torch.equal(runs[1], theirs["corrupt"])
    graph = EdgeGraph.of(_pocket)
    assert torch.equal(graph.valid, theirs["edges"].T.bool())

    def ours(path) -> torch.Tensor:
        metric = LogitDiff(torch.tensor(answers))
        return edge_attribution(_pocket, runs[0], OtherRun(runs[1]), metric, path=path).values

    scores = {name: torch.where(graph.valid, theirs[name].T, 0.0) for name in METHODS}
    return ours, scores


@pytest.mark.slow
def test_the_scores_of_edges_are_the_librarys(both) -> None:
    """EAP as it is; EAP-IG at the library's points."""
    ours, theirs = both
    for name, (_, steps) in METHODS.items():
        mine = ours(At(0.0) if steps is None else FromTheCorruptEnd(steps))
        size = theirs[name].abs().max()
        assert (mine - theirs[name]).abs().max() < 1e-5 * size, name
        assert (theirs[name].abs() > 1e-3 * size).sum() > 100, "something was compared"


@pytest.mark.slow
def test_our_points_are_the_middles_of_its_steps(both) -> None:
    """Five middles are nearer to its scores of forty steps than its own five steps are."""
    ours, theirs = both
    fine = theirs["EAP-IG, 40 steps"]
    apart = {"ours": ours(Integrated(5)) - fine, "theirs": theirs["EAP-IG"] - fine}
    far = {name: float(gap.norm() / fine.norm()) for name, gap in apart.items()}
    assert far["ours"] < 0.5 * far["theirs"] < 0.05
