"""SAELens's files, read and written without it: `cfg.json` beside `sae_weights.safetensors`.

SAELens 6 keeps what belongs to the SAE at the top of `cfg.json` and all else under "metadata";
earlier versions kept one flat table. Both are read, the first is written. Source:
jbloomAus/SAELens, sae_lens/saes/sae.py and sae_lens/loading/pretrained_sae_loaders.py.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mi_helpers import _model_files
from mi_helpers.sae.core import Sae

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURES = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu"}
_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


def save(sae: Sae, folder: str | Path) -> Path:
    """Write `sae` so that SAELens's `SAE.load_from_disk(folder)` opens it too.

    Notes go into the metadata; they must be JSON. When writing fails, what was there stays.
    """
    folder = Path(folder)
    metadata = {
        **sae.notes, "model_name": sae.model_id or None, "hook_name": sae.hook or None,
        "prepend_bos": True, "sae_lens_version": "6.0.0", "sae_lens_training_version": None,
    }  # fmt: skip
    config: dict[str, Any] = {
        "architecture": ARCHITECTURES[sae.kind], "d_in": sae.d_in, "d_sae": sae.d_sae,
        "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": sae.subtract_b_dec,
        "normalize_activations": sae.normalize,
        "reshape_activations": "hook_z" if sae.hook.endswith("hook_z") else "none",
        "metadata": metadata,
    }  # fmt: skip
    if sae.k is not None:
        config["k"] = sae.k
    text = json.dumps(config, indent=1) + "\n"  # first: a note that is no JSON fails here
    tensors = {
        n: t.contiguous().cpu().float() for n in _TENSORS if (t := getattr(sae, n)) is not None
    }
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as partial:
        save_file(tensors, Path(partial, WEIGHTS))
        Path(partial, CONFIG).write_text(text, encoding="utf-8")
        for name in (WEIGHTS, CONFIG):
            os.replace(Path(partial, name), folder / name)
    return folder


def load(folder: str | Path, *, device: torch.device | str = "cpu") -> Sae:
    """Open an SAE in SAELens's layout: standard, topk or jumprelu, from safetensors alone.

    Raises FileNotFoundError when a file is missing, ValueError when one cannot be read, is not what
    it says, or is of a kind that this package does not know.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            others = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
            pickled = [name for name in others if name.endswith((".pt", ".pkl", ".bin", ".pth"))]
            hint = f" ({', '.join(pickled)} is pickled, and pickles are never loaded)"
            raise FileNotFoundError(
                f"{folder} has no {name}{hint if pickled else ''}: an SAE is saved as {CONFIG} "
                f"and {WEIGHTS}"
            )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, framework="pt", device=str(device)) as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder} cannot be read ({error}): fetch it again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{folder / CONFIG} holds no table of settings: fetch it again")
    return _from_parts(config, tensors, str(folder))


def _from_parts(config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> Sae:
    meta = dict(config.get("metadata") or {})
    both = {**config, **meta}
    architecture = config.get("architecture", "standard")
    kwargs = config.get("activation_fn_kwargs") or {}
    k = config.get("k") or kwargs.get("k")
    if architecture == "standard" and "topk" in str(both.get("activation_fn_str", "")):
        architecture = "topk"  # before version 5, topk was an activation function
    kinds = {name: kind for kind, name in ARCHITECTURES.items()}
    if architecture not in kinds:
        raise ValueError(
            f"{where} is of architecture {architecture!r}; readable are {', '.join(kinds)}"
        )
    missing = [name for name in _TENSORS[:4] if name not in tensors]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}; it has {', '.join(tensors)}")
    stated = (config.get("d_in"), config.get("d_sae"))
    if stated != tuple(tensors["W_enc"].shape):
        raise ValueError(
            f"{where}: the config says d_in, d_sae = {stated}, but W_enc is "
            f"{list(tensors['W_enc'].shape)}"
        )
    factor = tensors.get("scaling_factor")
    if factor is not None and not torch.allclose(factor, torch.ones_like(factor)):
        raise ValueError(f"{where} has fine-tuned scaling factors, which are not supported")
    kind = kinds[architecture]
    parts = {n: tensors[n].contiguous() for n in _TENSORS[:4]}
    if config.get("rescale_acts_by_decoder_norm"):  # folded: rows of W_dec get length 1
        length = parts["W_dec"].norm(dim=-1)
        parts["W_enc"], parts["b_enc"] = parts["W_enc"] * length, parts["b_enc"] * length
        parts["W_dec"] = parts["W_dec"] / length[:, None]
    normalize = both.get("normalize_activations", "none")
    name = both.get("model_name") or ""
    tops = ("architecture", "d_in", "d_sae", "dtype", "device", "k", "metadata")
    notes = meta or {key: value for key, value in config.items() if key not in tops}
    return Sae(
        kind=kind,
        **parts,
        threshold=tensors["threshold"] if kind == "jumprelu" and "threshold" in tensors else None,
        k=int(k) if kind == "topk" and k else None,
        hook=both.get("hook_name") or both.get("hook_point") or "",
        model_id="gpt2" if name in _model_files.GPT2_NAMES else name,
        normalize="none" if normalize in (False, None) else str(normalize),
        subtract_b_dec=bool(config.get("apply_b_dec_to_input", True)),
        notes={key: value for key, value in notes.items() if value is not None},
    )  # fmt: skip
