"""Translators of a tuned lens as a file: a low-rank affine map for each layer.

Source: Belrose et al. 2023, Eliciting Latent Predictions from Transformers with the Tuned Lens,
section 3. They store a full matrix for each layer; here one is the identity (or nothing) and what a
product of two narrow matrices adds to it, which takes a fraction of the room.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers import checksums
from mi_helpers.files import save_tensors
from mi_helpers.models import model_id

TRANSLATORS = "translators.safetensors"
REMEDY = "restore it with `git checkout -- data/lens`, or train it with `mi_data.lens.train`"


def committed_lens(model: TransformerBridge) -> Path | None:
    """The folder of the lens that comes with the suite for these weights; None if there is none.

    The weights decide: a lens of SmolLM2 in four bits is none of SmolLM2 in sixteen.
    """
    folder = Path(str(resources.files("mi_data"))) / "lens" / model_id(model)
    return folder if folder.is_dir() else None


def save_matrices(path: Path, model: str, parts: dict[str, Tensor], names: Sequence[str]) -> None:
    """Write stacked matrices in half precision, whole or not at all.

    Args:
        path: The file; its folder must exist.
        model: The `model_id` of the model that they read.
        parts: Tensors whose first axis is the matrix.
        names: What the matrices are called, in the order of that axis.

    Raises:
        ValueError: A number is too large for half precision, or a part has another length.
    """
    for key, part in parts.items():
        if len(part) != len(names):
            raise ValueError(f"{key!r} has {len(part)} matrices for {len(names)} names")
        if not part.half().isfinite().all():
            raise ValueError(f"{key!r} does not fit into half precision: {part.abs().max():.3g}")
    save_tensors(path, {k: v.half() for k, v in parts.items()}, model=model, names="|".join(names))


def load_translators(
    model: TransformerBridge, folder: Path, names: Sequence[str]
) -> tuple[Float[Tensor, "lens d_model d_model"], Float[Tensor, "lens d_model"]]:
    """Translators `stream @ A + b` from `folder`, on the model's device in single precision.

    Args:
        model: The model that they read.
        folder: Where they lie, with the checksums beside them; see `committed_lens`.
        names: Which, in this order: "15" for the stream before layer 15, or a control's name.

    Returns:
        A and b. What comes out of them goes through the final norm and the unembedding.

    Raises:
        FileNotFoundError: The file, or the checksums, are missing.
        ValueError: The file is not the published one, of another model, or has no such translator.
    """
    parts = _read(model, folder / TRANSLATORS, names)
    eye = torch.eye(model.cfg.d_model).to(parts["b"])
    return parts["keep"][:, None, None] * eye + parts["down"] @ parts["up"], parts["b"]


def _read(model: TransformerBridge, path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """The parts of a file for some matrices, after the file was found to be what it should be."""
    expected = checksums.read(path.parent).get(path.name)
    if expected is None:
        raise FileNotFoundError(f"{path.parent / checksums.SUMS} does not name {path.name}")
    checksums.check_file(path, expected, REMEDY)
    with safe_open(path, "pt") as file:
        about = file.metadata()
        parts = {key: file.get_tensor(key) for key in file.keys()}
    if about["model"] != model_id(model):
        raise ValueError(
            f"{path} reads {about['model']!r}, and this model is {model_id(model)!r}: a lens reads "
            "the model that it was trained on. Load that model, or train a lens"
        )
    there = about["names"].split("|")
    if missing := [name for name in names if name not in there]:
        raise ValueError(f"{path} has no {missing[0]!r}: there are {', '.join(there)}")
    chosen = [there.index(name) for name in names]
    return {key: part[chosen].to(model.W_U) for key, part in parts.items()}
