"""Load any causal language model, once, in one place, and say what was loaded.

Every model arrives as a `TransformerBridge` in compatibility mode: LayerNorm folded into the
weights that read it, the weights that write to the residual stream and the unembedding centred,
value biases folded into the output bias. That changes the coordinates of the inside, not the
predictions: log-probabilities equal the original's, logits differ by a constant per position.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities.devices import get_device
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from mi_helpers import _model_files

# The first three numbers of the first, second and last rows of GPT-2 small's token embedding.
# Source: rasbt/LLMs-from-scratch@28c65cdf ch05.ipynb cell 136.
GPT2_CORNERS = (
    (-0.11010301, -0.03926672, 0.03310751),
    (0.04034033, -0.04861503, 0.04624869),
    (0.05135201, -0.02768905, 0.0499369),
)


@dataclass(frozen=True)
class ModelSource:
    """Where a model came from: `model_id` is decided by its weights, `name` was asked for."""

    model_id: str
    name: str
    directory: Path
    where: str
    n_params: int


def load_model(name: str | None = None, *, device: str | None = None) -> TransformerBridge:
    """Load a model in compatibility mode, in eval mode, without gradients; print one line.

    Args:
        name: "pocket" (the small model in this repository); "gpt2" (GPT-2 small, from the folder
            MI_GPT2_DIR, else the Hugging Face cache, else the hub); a folder in Hugging Face
            format; or any hub name. None means MI_MODEL, if set; else GPT-2 small, if it is
            cached or the hub answers within two seconds; else pocket.
        device: "cpu", "cuda", "cuda:1", "mps"; None picks the best there is.

    Raises:
        FileNotFoundError: the model is not here and cannot be had; the message says what to do.
        ValueError: an unknown device or name, or files that are not what they should be.
    """
    device = _checked_device(device)
    name, note = (name, "") if name else (os.environ.get("MI_MODEL"), "")
    if not name:
        name, note = _model_files.default_name()
    directory, where = _model_files.locate(name)
    with _quietly():
        weights = _read_weights(directory)
        n_params = sum(p.numel() for p in weights.parameters())
        source = ModelSource(_identify(weights, name, directory), name, directory, where, n_params)
        bridge = _to_bridge(weights, source, device)
    print(_banner(source, device, note))
    return bridge


def untrained(model: TransformerBridge, seed: int = 0) -> TransformerBridge:
    """The standard control: the same architecture and tokenizer with fresh random weights.

    They are the weights that `transformers` would start to train from, drawn with `seed` and then
    processed as in `load_model`. The global random state stays as it was.
    """
    source = model_source(model)
    config = AutoConfig.from_pretrained(source.directory, local_files_only=True)
    random_source = replace(
        source,
        model_id=f"untrained {source.model_id}",
        where=f"random initialisation, seed {seed}",
    )
    with _quietly():
        torch.manual_seed(seed)
        weights = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="eager"
        )
        return _to_bridge(weights, random_source, str(model.cfg.device))


def model_source(model: TransformerBridge) -> ModelSource:
    """Where `model` came from. ValueError when neither `load_model` nor `untrained` made it."""
    source = getattr(model, "mi_source", None)
    if not isinstance(source, ModelSource):
        raise ValueError("this model has no known source: load it with mi.load_model(...)")
    return source


def model_id(model: TransformerBridge) -> str:
    """What the weights are: "pocket", "gpt2", or the name of whatever else was loaded.

    The weights decide, never the name: pocket's by checksum, GPT-2's by its published embedding.
    A random model of GPT-2's shape loaded as "gpt2" is "gpt2 (other weights)".
    """
    return model_source(model).model_id


def _read_weights(directory: Path) -> PreTrainedModel:
    """The checkpoint as published, in single precision, before any processing."""
    try:
        return AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32,
            attn_implementation="eager",  # the only one whose attention patterns can be hooked
            use_safetensors=True,
            local_files_only=True,
        )
    except SafetensorError as error:
        raise ValueError(
            f"the weights in {directory} are truncated or altered ({error}): fetch them again"
        ) from error


def _to_bridge(weights: PreTrainedModel, source: ModelSource, device: str) -> TransformerBridge:
    """Wrap, process once, freeze. The only place that names the bridge class to make one."""
    torch.nn.Module.to(weights, device)
    bridge = TransformerBridge.boot_transformers(
        str(source.directory), hf_model=weights, device=device
    )
    bridge.enable_compatibility_mode(disable_warnings=True)
    bridge.requires_grad_(False)
    bridge.eval()
    bridge.cfg.model_name = source.model_id
    bridge.mi_source = source
    return bridge


def _identify(weights: PreTrainedModel, name: str, directory: Path) -> str:
    """The id that claims are keyed by; see `model_id`."""
    if _model_files.is_pocket(directory):
        return "pocket"
    if _is_gpt2(weights):
        return "gpt2"
    if name in ("pocket", *_model_files.GPT2_NAMES):
        return f"{name} (other weights)"
    return directory.name if Path(name).expanduser().is_dir() else name


def _is_gpt2(weights: PreTrainedModel) -> bool:
    """Whether the token embedding, not yet processed, is the published GPT-2 small's."""
    embedding = weights.state_dict().get("transformer.wte.weight")
    if embedding is None or tuple(embedding.shape) != (50257, 768):
        return False
    corners = embedding[[0, 1, -1], :3]
    return torch.allclose(corners, corners.new_tensor(GPT2_CORNERS), rtol=0, atol=1e-7)


def _checked_device(device: str | None) -> str:
    """`device`, or the best there is; ValueError when it is unknown or not in this machine."""
    if device is None:
        return get_device()
    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.append("mps")
    present += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    known = [*present, "cuda"] if torch.cuda.is_available() else present
    if str(device) not in known:
        raise ValueError(f"device {str(device)!r} is not here; there is: {', '.join(present)}")
    return str(device)


def _banner(source: ModelSource, device: str, note: str) -> str:
    size = f"{source.n_params / 1e6:.1f}M" if source.n_params > 1e5 else f"{source.n_params:,}"
    line = f"{source.model_id} ({size} parameters) on {device}, from {source.where}"
    return f"{line}. {note}" if note else line


@contextmanager
def _quietly() -> Iterator[None]:
    """Without progress bars, and without a trace in the global random state."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
