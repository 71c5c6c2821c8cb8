"""Translators of a tuned lens as a file: an affine map for each layer, in half precision.

Source: Belrose et al. 2023, Eliciting Latent Predictions from Transformers with the Tuned Lens,
section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers import checksums
from mi_helpers.files import save_tensors
from mi_helpers.models import model_id

FILE = "lens.safetensors"
REMEDY = "restore it with `git checkout -- data/lens`, or train it with `mi_data.lens.train`"


def committed_lens(model: TransformerBridge) -> Path | None:
    """The folder of the lens that comes with the suite for these weights; None if there is none.

    The weights decide: a lens of SmolLM2 in four bits is none of SmolLM2 in sixteen.
    """
    folder = Path(str(resources.files("mi_data"))) / "lens" / model_id(model)
    return folder if folder.is_dir() else None


def save_translators(
    folder: Path,
    model: str,
    names: Sequence[str],
    A: Float[Tensor, "lens d_model d_model"],
    b: Float[Tensor, "lens d_model"],
) -> None:
    """Write translators in half precision, whole or not at all; the checksums are written apart.

    Args:
        folder: Where; it must exist.
        model: The `model_id` of the model that they read.
        names: What they are called, in their order.
        A: Matrices.
        b: Offsets.

    Raises:
        ValueError: A number is too large for half precision, or there are not as many names.
    """
    if not len(A) == len(b) == len(names):
        raise ValueError(f"{len(names)} names for {len(A)} matrices and {len(b)} offsets")
    for part in (A, b):
        if not part.half().isfinite().all():
            raise ValueError(f"half precision cannot hold a translator's {part.abs().max():.3g}")
    parts = {"A": A.half(), "b": b.half()}
    save_tensors(folder / FILE, parts, model=model, names="|".join(names))


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
    path = folder / FILE
    expected = checksums.read(folder).get(FILE)
    if expected is None:
        raise FileNotFoundError(f"{folder / checksums.SUMS} does not name {FILE}")
    checksums.check_file(path, expected, REMEDY)
    with safe_open(path, "pt") as file:
        about = file.metadata()
        A, b = (file.get_tensor(key) for key in ("A", "b"))
    if about["model"] != model_id(model):
        raise ValueError(
            f"{path} reads {about['model']!r}, and this model is {model_id(model)!r}: a lens reads "
            "the model that it was trained on. Load that model, or train a lens"
        )
    there = about["names"].split("|")
    if missing := [name for name in names if name not in there]:
        raise ValueError(f"{path} has no {missing[0]!r}: there are {', '.join(there)}")
    chosen = [there.index(name) for name in names]
    return A[chosen].to(model.W_U), b[chosen].to(model.W_U)
