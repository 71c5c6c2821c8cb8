"""What circuit-tracer's load_clt makes of a cross-layer transcoder, in its own environment.

    build/bench/circuit-tracer/bin/python tests/circuit_tracer_clt_side.py TRANSCODER FOLDER

FOLDER has what the MLPs read, x [layer token d_model], in.safetensors. The activations and what
they are decoded to, both without a linear map, go to out.safetensors.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
from safetensors.torch import load_file, save_file


def main(transcoder: str, folder: Path) -> None:
    """Read, encode, decode, write."""
    clt = load_clt(transcoder, dtype=torch.float32, device=torch.device("cpu"))
    assert not clt.skip_connection
    with torch.no_grad():
        found = clt.encode(load_file(folder / "in.safetensors")["x"])
        back = clt.decode(found.to_sparse())
    out = {"features": found.contiguous(), "decoded": back.contiguous()}
    save_file(out, folder / "out.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
