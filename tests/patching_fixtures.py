"""A random model in which every part matters, and a pair of prompts, for the patching tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from checkpoints import save_tiny
from safetensors.torch import load_file, save_file

from mi_helpers.circuits.runner import edge_runner
from mi_helpers.engine import prepare
from mi_helpers.patching import LogitDiff, OtherRun

N_POS, BATCH, SAME = 7, 3, 2  # the two runs share their first tokens


@pytest.fixture(scope="session")
def _strong_model(tmp_path_factory):
    from mi_helpers.models import load_model

    folder = save_tiny(tmp_path_factory.mktemp("models") / "strong", n_layer=3)
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if weight.ndim == 2:  # at its initial size, a head or MLP hardly changes anything
            weights[name] = weight * (15 if "attn" in name or "mlp" in name else 5)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return load_model(str(folder), device="cpu")


@pytest.fixture
def model(_strong_model) -> Iterator:
    """A random bridge of three layers of four heads, without hooks at the end."""
    yield _strong_model
    _strong_model.reset_hooks()


@pytest.fixture
def base(model):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, model.cfg.d_vocab, (BATCH, N_POS), generator=generator)


@pytest.fixture
def source(model, base):
    generator = torch.Generator().manual_seed(1)
    other = torch.randint(1, model.cfg.d_vocab, (BATCH, N_POS), generator=generator)
    other[:, :SAME] = base[:, :SAME]
    return other


@pytest.fixture
def metric(model):
    generator = torch.Generator().manual_seed(2)
    first = torch.randint(1, 100, (BATCH,), generator=generator)
    return LogitDiff(torch.stack([first, first + 7], dim=1))


def plain_acdc(model, base, source, metric, distance, threshold, graph):
    """One edge after another, one circuit at a time."""
    setup = prepare(model, base, metric, OtherRun(source))
    with torch.no_grad():
        runner = edge_runner(setup)
        far = distance(setup.logits(setup.base.final[:, runner.reads]))

        def loss(kept):
            return float(runner.final(kept[None], lambda x: setup.judge(x, far)).mean())

        kept = graph.valid.clone()
        now = loss(kept)
        for reader in reversed(range(len(graph.readers))):
            for writer in reversed(range(graph.n_before[reader])):
                kept[reader, writer] = False
                new = loss(kept)
                kept[reader, writer] = new - now >= threshold
                now = now if kept[reader, writer] else new
    return kept
