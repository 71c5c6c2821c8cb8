"""Load any causal language model, once, in one place, and say what was loaded.

Every model arrives as a `TransformerBridge` in compatibility mode: LayerNorm folded into the
weights that read it, the weights that write to the residual stream and the unembedding centred,
value biases folded into the output bias. That changes the coordinates of the inside, not the
predictions: log-probabilities equal the original's, logits differ by a constant per position.
A text begins with the model's start token, in the prompts of this package as in
`model.to_tokens` (`start_token`). There is no dropout, in training mode either, so that the same
input gives the same numbers each time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities.devices import get_device
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from mi_helpers import checksums
from mi_helpers.models import files, folders, smollm2
from mi_helpers.models.start_token import tokenizer_of
from mi_helpers.models.threads import use_threads

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
        name: "pocket" (the small model in this repository), "pocket-seed-1" to "pocket-seed-3" (the
            same recipe from other seeds), "pocket-tuned" and "pocket-control" (pocket
            with a little more training, on changed texts and on unchanged ones), "pocket-half-1548"
            (one of three steps of a run half as long); "gpt2" (GPT-2 small, from the folder
            MI_GPT2_DIR, else the Hugging Face cache, else the hub); "smollm2"
            (SmolLM2-135M-Instruct, from the Hugging Face cache, else as `fetch_smollm2` left it,
            else from the hub) or "smollm2-q4" (only as `fetch_smollm2` left it); a folder in
            Hugging Face format; or any hub name. None means MI_MODEL, if set; else "pocket", on
            Colab "gpt2".
        device: "cpu", "cuda", "cuda:1", "mps"; None picks the best there is.

    Returns:
        The model, in single precision. What is not cached is downloaded, after a line that says
        how large it is.

    Raises:
        FileNotFoundError: The model is not here and cannot be had; the message says what to do.
        ValueError: An unknown device or name, or files that are not what they should be: altered,
            or weights that are not those which the configuration describes.
    """
    device = _checked_device(device)
    name, note = (name, "") if name else (os.environ.get("MI_MODEL"), "")
    if not name:
        name, note = files.default_name()
    directory, where = files.locate(name)
    with _quietly():
        weights = _read_weights(directory)
        n_params = sum(p.numel() for p in weights.parameters())
        source = ModelSource(_identify(weights, name, directory), name, directory, where, n_params)
        bridge = _to_bridge(weights, source, device)
    threads = use_threads(n_params) if device == "cpu" else 0
    print(_banner(source, device, threads, note))
    return bridge


def load_pockets(*loaded: TransformerBridge) -> dict[str, TransformerBridge]:
    """Pocket and the models trained by its recipe from other seeds, by name: "pocket" first.

    Args:
        loaded: Models at hand. One that is a pocket is given back and not loaded again.

    Returns:
        The models, each as `load_model` gives it, which prints its line.
    """
    others = [name for name in folders.pockets() if name.startswith("pocket-seed-")]
    return _at_hand(["pocket", *others], loaded)


def load_pocket(*loaded: TransformerBridge) -> TransformerBridge:
    """Pocket, for what was made for it alone; given back where it is among the models at hand."""
    return _at_hand(("pocket",), loaded)["pocket"]


def load_half(*loaded: TransformerBridge) -> list[TransformerBridge]:
    """One run by pocket's recipe, half as long, at three steps: the first one first.

    Two lie before the step from which documents are drawn from the generator's `LATE_MIX`; the last
    is the run's end. Models at hand are not loaded again.
    """
    names = [name for name in folders.pockets() if name.startswith("pocket-half-")]
    return [*_at_hand(names, loaded).values()]


def load_tuned(*loaded: TransformerBridge) -> list[TransformerBridge]:
    """Pocket, then pocket after a little more training on changed texts, then on unchanged ones.

    Models at hand are not loaded again.
    """
    return [*_at_hand(("pocket", "pocket-tuned", "pocket-control"), loaded).values()]


def _at_hand(
    names: Iterable[str], loaded: Iterable[TransformerBridge]
) -> dict[str, TransformerBridge]:
    there = {model_id(model): model for model in loaded}
    return {name: there[name] if name in there else load_model(name) for name in names}


def untrained(model: TransformerBridge, seed: int = 0) -> TransformerBridge:
    """The standard control: the same architecture and tokenizer with fresh random weights.

    They are the weights that `transformers` would start to train from, drawn with `seed` and then
    processed as in `load_model`. The global random state stays as it was.
    """
    source = model_source(model)
    config = _without_dropout(source.directory)
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


def as_published(model: TransformerBridge) -> TransformerBridge:
    """The model once more, with the weights of its files: nothing folded, nothing centred.

    For what refuses processed weights, as TransformerLens's Jacobian lens does; the helpers of this
    package refuse these. Streams differ from the processed model's by their mean over coordinates
    (not at all where there is no LayerNorm to centre them), predictions do not differ.

    Raises:
        ValueError: no file holds the weights of an untrained model.
    """
    source = model_source(model)
    if source.model_id.startswith("untrained "):
        raise ValueError(f"{source.model_id} was drawn at random: no file holds its weights")
    with _quietly():
        bridge = _wrapped(_read_weights(source.directory), source, str(model.cfg.device))
    bridge.cfg.default_prepend_bos = True
    bridge.requires_grad_(False)
    return bridge.eval()


def model_source(model: TransformerBridge) -> ModelSource:
    """Where `model` came from. ValueError when neither `load_model` nor `untrained` made it."""
    source = getattr(model, "mi_source", None)
    if not isinstance(source, ModelSource):
        raise ValueError("this model has no known source: load it with mi.load_model(...)")
    return source


def model_id(model: TransformerBridge) -> str:
    """What the weights are: "pocket", "gpt2", "smollm2", "smollm2-q4", or another model's name.

    The weights decide, never the name: pocket's and SmolLM2's by checksum (with 16 bits a weight
    it is "smollm2", with 4 "smollm2-q4"), GPT-2's by its published embedding. A random model of
    GPT-2's shape loaded as "gpt2" is "gpt2 (other weights)".
    """
    return model_source(model).model_id


def _read_weights(directory: Path) -> PreTrainedModel:
    """The checkpoint as published, in single precision, before any processing."""
    try:
        weights, info = AutoModelForCausalLM.from_pretrained(
            directory,
            config=_without_dropout(directory),
            dtype=torch.float32,
            attn_implementation="eager",  # the only one whose attention patterns can be hooked
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below
        )
    except SafetensorError as error:
        raise ValueError(
            f"the weights in {directory} are truncated or altered ({error}): fetch them again"
        ) from error
    for what, found in (
        ("lack", info["missing_keys"]),
        ("have in another shape", {name for name, *_ in info["mismatched_keys"]}),
        ("have besides", info["unexpected_keys"]),
    ):
        if found:
            raise ValueError(
                f"the weights in {directory} are not those of the {type(weights).__name__} that "
                f"its config.json describes: they {what} {', '.join(sorted(found)[:3])} "
                f"({len(found)} in all). Fetch the folder again, or mend its config.json."
            )
    return weights


def _without_dropout(directory: Path) -> PretrainedConfig:
    """The configuration in `directory`, with every rate of dropout at zero."""
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    for name, rate in vars(config).items():
        if isinstance(rate, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)
    return config


def _to_bridge(weights: PreTrainedModel, source: ModelSource, device: str) -> TransformerBridge:
    """Wrap, process once, freeze."""
    bridge = _wrapped(weights, source, device)
    bridge.enable_compatibility_mode(disable_warnings=True)
    bridge.cfg.default_prepend_bos = True
    weights.register_forward_pre_hook(_refuse_half_precision)
    bridge.requires_grad_(False)
    bridge.eval()
    bridge.cfg.model_name = source.model_id
    bridge.mi_source = source
    return bridge


def _wrapped(weights: PreTrainedModel, source: ModelSource, device: str) -> TransformerBridge:
    """A bridge as the library boots it. The only place that names its class to make one."""
    torch.nn.Module.to(weights, device)
    return TransformerBridge.boot_transformers(
        str(source.directory),
        hf_model=weights,
        device=device,
        tokenizer=tokenizer_of(folders.tokenizer_folder(source.directory)),
    )


def _refuse_half_precision(weights: torch.nn.Module, inputs: tuple) -> None:
    """Stop a run of a model that was moved to less than single precision since it was loaded."""
    dtype = next(weights.parameters()).dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"the model was moved to {dtype}, in which effects drown in rounding: the helpers "
            "compute in single precision. Load it again with mi.load_model, and leave it so."
        )


def _identify(weights: PreTrainedModel, name: str, directory: Path) -> str:
    """The id that claims are keyed by; see `model_id`."""
    if pocket := folders.which_pocket(directory):
        return pocket
    if _is_gpt2(weights):
        return "gpt2"
    if model := _which_smollm2(weights, directory):
        return model
    if name in ("pocket", *files.GPT2_NAMES, *files.SMOLLM2_NAMES):
        return f"{name} (other weights)"
    return directory.name if Path(name).expanduser().is_dir() else name


def _is_gpt2(weights: PreTrainedModel) -> bool:
    """Whether the token embedding, not yet processed, is the published GPT-2 small's."""
    embedding = weights.state_dict().get("transformer.wte.weight")
    if embedding is None or tuple(embedding.shape) != (50257, 768):
        return False
    corners = embedding[[0, 1, -1], :3]
    return torch.allclose(corners, corners.new_tensor(GPT2_CORNERS), rtol=0, atol=1e-7)


def _which_smollm2(weights: PreTrainedModel, directory: Path) -> str | None:
    """Which of the two published sets of SmolLM2's weights these are, if one of them."""
    parameters = dict(weights.named_parameters())
    embedding = parameters.get("model.embed_tokens.weight")
    if embedding is None or tuple(embedding.shape) != smollm2.EMBEDDING_SHAPE:
        return None
    if smollm2.weights_digest(parameters) == smollm2.Q4_DIGEST:
        return "smollm2-q4"
    file = directory / "model.safetensors"
    if file.is_file() and checksums.sha256(file) == smollm2.HUB_SHA256:
        return "smollm2"
    return None


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


def _banner(source: ModelSource, device: str, threads: int, note: str) -> str:
    size = f"{source.n_params / 1e6:.1f}M" if source.n_params > 1e5 else f"{source.n_params:,}"
    on = {0: device, 1: f"{device}, one thread"}.get(threads, f"{device}, {threads} threads")
    line = f"{source.model_id} ({size} parameters) on {on}, from {source.where}"
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
