"""One update of ROME and one of MEMIT beside their authors' code: the same weights.

Given to both: the second moments of keys, and for MEMIT what the edited layers shall write more.
Theirs runs the model as it was saved, ours with norms folded and writes centred; so of theirs the
mean over the stream's dimensions, which no later layer reads, is taken out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mi_data.pocket import generator, lexicon
from safetensors.torch import load_file, save_file

from mi_helpers import steering
from mi_helpers.sites import read

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import peers  # noqa: E402

SOURCE = ROOT / "notebooks" / "src" / "15_mlp_memories.py"
LAYERS, WEIGHT, LIMIT = [1, 2, 3], 10.0, 1e-4
FACTS = lexicon.FACTS["capital"]


def centred(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean(-1, keepdim=True)


def gap(mine: torch.Tensor, hers: torch.Tensor) -> float:
    """Largest difference over largest entry."""
    return float((mine - hers).abs().max() / hers.abs().max())


@pytest.fixture(scope="module")
def requests() -> list[dict]:
    """Six countries; each gets the capital of the one before it."""
    pairs = FACTS["facts"][:6]
    return [
        {
            "case_id": i, "prompt": FACTS["phrasings"][0].replace("{s}", "{}"),
            "subject": pairs[i][0], "target_new": {"str": pairs[i - 1][1]},
        }
        for i in range(6)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def moments(_pocket) -> dict[int, torch.Tensor]:
    """Second moments of usual keys with the ridge that `rome_key` adds: theirs has none."""
    texts = [generator.document(i).text for i in range(300)]
    words = torch.cat([_pocket.to_tokens(text, prepend_bos=False)[0] for text in texts])
    found = steering.key_covariance(_pocket, words[: len(words) // 64 * 64].view(-1, 64), LAYERS)
    return {i: C + 1e-3 * C.diagonal().mean() * torch.eye(len(C)) for i, C in found.items()}


@pytest.fixture(scope="module")
def both(_pocket, requests, moments, tmp_path_factory):
    """What is to be added for each fact, and their updates."""
    try:
        python = peers.python_of("memit")
    except peers.PeerError as err:
        pytest.skip(str(err))
    folder = tmp_path_factory.mktemp("memit")
    draw = torch.Generator().manual_seed(0)
    added = centred(3 * torch.randn(len(requests), _pocket.cfg.d_model, generator=draw))
    job = {"requests": requests, "layers": LAYERS, "layer": 2, "weight": WEIGHT}
    (folder / "in.json").write_text(json.dumps(job), encoding="utf-8")
    parts = {f"moments.{i}": C.contiguous() for i, C in moments.items()}
    save_file(parts | {"added": added}, folder / "in.safetensors")
    script = [str(python), str(ROOT / "tests" / "memit_side.py")]
    script += [str(peers.source_of("memit")), str(folder)]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return added, load_file(folder / "out.safetensors")


def at_subjects(model, requests, place) -> torch.Tensor:
    """Activations at each subject's last token; no start token, as in their code."""
    found = []
    for one in requests:
        before, after = one["prompt"].split("{}")
        start = before + one["subject"]
        tokens = model.to_tokens(start + after, prepend_bos=False)
        last = model.to_tokens(start, prepend_bos=False).shape[1] - 1
        found.append(read(model, tokens, [place])[place][0, last])
    return torch.stack(found)


@pytest.mark.slow
def test_memits_updates_of_three_layers_are_its_authors(_pocket, requests, moments, both) -> None:
    """By the notebook's own closed form, layer after layer."""
    cells = SOURCE.read_text(encoding="utf-8").split("\n# %%")
    cell = next(c for c in cells if "def insert_many(" in c and "NotImplemented" not in c)
    names: dict = {"torch": torch}
    exec(cell.split("\n", 1)[1], names)
    added, theirs = both
    place = ("resid_post", LAYERS[-1])
    wanted = at_subjects(_pocket, requests, place) + added
    views = [_pocket.blocks[layer].mlp.W_out for layer in LAYERS]
    old = [view.detach().clone() for view in views]
    try:
        for i, (layer, view) in enumerate(zip(LAYERS, views, strict=True)):
            missing = (wanted - at_subjects(_pocket, requests, place)) / (len(LAYERS) - i)
            K, W, C = at_subjects(_pocket, requests, ("mlp_post", layer)), old[i], moments[layer]
            K, W, C, missing = (x.double() for x in (K, W, C, missing))
            update = names["insert_many"](W, C, K, K @ W + missing, WEIGHT) - W
            with torch.no_grad():
                view.add_(update.float())
            assert gap(centred(update), centred(theirs[f"memit.{layer}"])) < LIMIT, layer
    finally:
        with torch.no_grad():
            for view, before in zip(views, old, strict=True):
                view.copy_(before)


@pytest.mark.slow
def test_romes_update_is_its_authors(_pocket, requests, moments, both) -> None:
    """The same key, the same outer product, and the layer then writes what was asked for."""
    _, theirs = both
    layer = 2
    place, first = ("mlp_out", layer), requests[:1]
    key = at_subjects(_pocket, first, ("mlp_post", layer))[0]
    assert gap(key, theirs["rome.key"]) < LIMIT
    C = moments[layer]
    plain = C - 1e-3 / 1.001 * C.diagonal().mean() * torch.eye(len(C))  # the ridge comes by itself
    left = steering.rome_key(plain, key)
    assert gap(torch.outer(left, theirs["rome.change"]), theirs["rome"]) < LIMIT
    before, change = at_subjects(_pocket, first, place)[0], centred(theirs["rome.change"])
    with steering.rank_one(_pocket, layer, left, change):
        after = at_subjects(_pocket, first, place)[0]
    assert gap(after - before, change) < LIMIT
    assert change.norm() > 0.1 * before.norm()
