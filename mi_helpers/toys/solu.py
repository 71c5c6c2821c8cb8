"""Language models that differ in what their MLPs do to a neuron: SoLU and its rivals.

The committed ones were trained on pocket's text by `mi_data.solu.train`; data/solu/README.md is
their card. They are GPT-2s, opened as any other model, with its hooks.

Source: Elhage et al. 2022, Softmax Linear Units.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from mi_helpers import checksums
from mi_helpers.toys.opening import opened

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class SoftmaxLinear(nn.Module):
    """Every neuron times its share in the softmax over all neurons of the layer."""

    def forward(self, hidden: Tensor) -> Tensor:
        """[... d_mlp] -> the same."""
        return hidden * hidden.softmax(-1)


class SoftmaxLinearNorm(SoftmaxLinear):
    """The same with a LayerNorm behind it, whose gain and bias are in the weights that read it."""

    def forward(self, hidden: Tensor) -> Tensor:
        """[... d_mlp] -> the same."""
        return F.layer_norm(super().forward(hidden), hidden.shape[-1:])


# A name that begins with "solu" would make TransformerLens look for that LayerNorm's weights.
ACT2FN |= {"softmax_linear": SoftmaxLinear, "softmax_linear_norm": SoftmaxLinearNorm}


def load(activation: str, seed: int = 0) -> TransformerBridge:
    """A committed model: "gelu", "relu", "solu", "solu_ln" (a LayerNorm behind it), or "sparse".

    Raises:
        FileNotFoundError: No such model.
        ValueError: An altered file.
    """
    folder = _folder(activation, seed)
    checksums.check(folder, "restore it with `git checkout -- data/solu`")
    return _opened(folder)


def losses() -> list[dict[str, Any]]:
    """What all runs of the card logged: the "recipe" of each, and its "log", a row by step."""
    path = files("mi_data") / "solu" / "losses.json"
    return json.loads(path.read_text(encoding="utf-8"))


def untrained(activation: str, seed: int = 0) -> TransformerBridge:
    """What `load` gives, before its training."""
    from mi_data.solu import train

    recipe = train.SoluRecipe(activation=activation, seed=seed)
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as work:
        model = train.start(recipe, "cpu")
        train.write_model(model.state_dict(), recipe, Path(work))
        return _opened(Path(work))


def _folder(activation: str, seed: int) -> Path:
    folder = Path(str(files("mi_data"))) / "solu" / f"{activation}_{seed}"
    if not folder.is_dir():
        there = sorted(path.parent.name for path in folder.parent.glob("*/config.json"))
        raise FileNotFoundError(f"no model {folder.name}; there are: {', '.join(there)}")
    return folder


def _opened(weights: Path) -> TransformerBridge:
    """A folder of weights with pocket's tokenizer beside them, as a model."""
    tokenizer = Path(str(files("mi_data"))) / "pocket" / "model"
    with tempfile.TemporaryDirectory() as folder:
        for path in (*weights.glob("*.*"), *tokenizer.glob("tokenizer*.json")):
            shutil.copy(path, folder)
        return opened(Path(folder))
