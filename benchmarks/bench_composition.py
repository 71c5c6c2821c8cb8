#!/usr/bin/env python3
"""Composition scores of all head pairs at GPT-2 small's size: ours beside TransformerLens's.

    python benchmarks/bench_composition.py                 one line of JSON; fills the README here
    python benchmarks/bench_composition.py --no-library    ours alone

Both compute the Q-, K- and V-scores of the same random weights in the same process, on one thread.
`ratio` is the library's time over ours; `peak_gib` is the peak memory of the process after ours ran
and before the library's did, the interpreter and the libraries included.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from types import SimpleNamespace

import torch
from transformer_lens import FactoredMatrix
from transformer_lens.utilities import composition_scores as library_scores

from mi_helpers import heads

N_LAYERS, N_HEADS, D_MODEL, D_HEAD = 12, 12, 768, 64


def weights(seed: int = 0) -> SimpleNamespace:
    """What both read of a model: its OV and QK factors, here random."""
    generator = torch.Generator().manual_seed(seed)

    def factors() -> FactoredMatrix:
        a = torch.randn(N_LAYERS, N_HEADS, D_MODEL, D_HEAD, generator=generator)
        return FactoredMatrix(a, torch.randn(*a.mT.shape, generator=generator))

    config = SimpleNamespace(
        n_layers=N_LAYERS, n_heads=N_HEADS, d_model=D_MODEL, positional_embedding_type="standard"
    )
    blocks = [SimpleNamespace(attn=SimpleNamespace())]
    return SimpleNamespace(OV=factors(), QK=factors(), cfg=config, blocks=blocks)


def by_library(model: SimpleNamespace) -> dict[str, torch.Tensor]:
    """As TransformerBridge.all_composition_scores does it."""
    layers = torch.arange(N_LAYERS)
    later = layers[:, None, None, None] < layers[None, None, :, None]
    readers = {"Q": model.QK, "K": model.QK.T, "V": model.OV}
    return {
        kind: library_scores(model.OV, reader, broadcast_dims=True) * later
        for kind, reader in readers.items()
    }


def report(library: bool = True) -> str:
    """Run ours, and the library's if asked; JSON with seconds, peak memory, ratio, difference."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = weights()
        start = time.perf_counter()
        ours = heads.composition_scores(model)
        result = {
            "pairs": N_HEADS**2 * N_LAYERS * (N_LAYERS - 1) // 2,
            "kinds": "".join(ours),
            "threads": 1,
            "helper_s": round(time.perf_counter() - start, 2),
            "peak_gib": round(_peak_gib(), 2),
        }
        if library:
            start = time.perf_counter()
            theirs = by_library(model)
            result["library_s"] = round(time.perf_counter() - start, 2)
            result["ratio"] = round(result["library_s"] / result["helper_s"], 1)
            gaps = [(ours[kind] - theirs[kind]).abs().max().item() for kind in ours]
            result["max_difference"] = max(gaps)
    finally:
        torch.set_num_threads(threads)
    return json.dumps(result)


def _peak_gib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2 ** (30 if sys.platform == "darwin" else 20)


if __name__ == "__main__":
    found = report(library="--no-library" not in sys.argv[1:])
    print(found)
    if "--no-library" not in sys.argv[1:]:
        from record import record

        record("composition", [json.loads(found)], "One thread.")
