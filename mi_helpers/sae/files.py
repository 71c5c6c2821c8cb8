"""SAELens's files, read and written without it: `cfg.json` beside `sae_weights.safetensors`.

SAELens 6 keeps what belongs to the SAE at the top of `cfg.json` and all else under "metadata";
earlier versions kept one flat table. Both are read, the first is written. Source:
jbloomAus/SAELens, sae_lens/saes/sae.py and sae_lens/loading/pretrained_sae_loaders.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mi_helpers.files import save_tensors, write_whole
from mi_helpers.models import hub
from mi_helpers.models.files import GPT2_NAMES
from mi_helpers.sae import cross_layer
from mi_helpers.sae.core import Sae, from_gated
from mi_helpers.sites import place_of

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_KIND_OF = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu"}
"""SAELens's architectures, in our words; "gated" is read, as the jumprelu that it equals."""
_GATED = ("b_gate", "r_mag", "b_mag")
"""What a gated SAE has in the place of `b_enc`."""
_TRANSCODERS = {
    "transcoder": ("standard", False),
    "skip_transcoder": ("standard", True),
    "jumprelu_transcoder": ("jumprelu", False),
    "jumprelu_skip_transcoder": ("jumprelu", True),
    "topk_transcoder": ("topk", False),
    "topk_skip_transcoder": ("topk", True),
}
"""A transcoder's name: the SAE's architecture, and whether it skips. SAELens has none of topk."""
_FUNCTIONS = {"standard": ("relu",), "topk": ("topk", "relu"), "jumprelu": ("jumprelu", "relu")}
_FUNCTIONS["gated"] = ("relu",)
"""What each may call its activation function, in files that name one."""
_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


def save(sae: Sae, folder: str | Path, *, half: bool = False) -> Path:
    """Write `sae` so that SAELens's `SAE.load_from_disk(folder)` opens it too.

    When writing fails, what was there stays. A transcoder has SAELens's format for one, too; of
    the kind "topk", which SAELens does not have, by the name "topk_transcoder". A cross-layer
    transcoder is written as circuit-tracer does: see `cross_layer.save_layers`. With `half`,
    numbers are rounded to half precision, for half the size.

    Raises:
        ValueError: a crosscoder, for which there is no format.
        TypeError: a note that JSON cannot hold.
    """
    folder = Path(folder)
    if sae.family == cross_layer.FAMILY:
        return cross_layer.save_layers(sae, folder, half=half)
    if sae.family not in ("SAE", "transcoder"):
        raise ValueError(f"SAELens has no format for a {sae.family}: only an SAE or a transcoder")
    config = _config(sae, half)
    text = json.dumps(config, indent=1) + "\n"  # first: a note that is no JSON fails here
    tensors = {n: t.float() for n in _TENSORS if (t := getattr(sae, n)) is not None}
    if sae.W_skip is not None:
        tensors["W_skip"] = sae.W_skip.T.float()  # SAELens: [d_out, d_in]
    if half:
        tensors = {name: value.half() for name, value in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with write_whole(folder / CONFIG) as said:
        said.write_text(text, encoding="utf-8")
        save_tensors(folder / WEIGHTS, tensors)
    return folder


def _config(sae: Sae, half: bool) -> dict[str, Any]:
    """What SAELens says of a dictionary."""
    metadata = {
        **sae.notes,
        "model_name": sae.model_id or None,
        "hook_name": sae.hook or None,
        "prepend_bos": True,
        "sae_lens_version": "6.0.0",
        "sae_lens_training_version": None,
    }
    architectures = {kind: name for name, kind in _KIND_OF.items()}
    architecture = architectures[sae.kind]
    if sae.target:
        wanted = (architecture, sae.W_skip is not None)
        architecture = next(name for name, is_so in _TRANSCODERS.items() if is_so == wanted)
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float16" if half else "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.subtract_b_dec,
        "normalize_activations": sae.normalize,
        "reshape_activations": "hook_z" if sae.hook.endswith("hook_z") else "none",
        "metadata": metadata,
    }
    if sae.k is not None:
        config["k"] = sae.k
    if sae.target:
        layer = place_of(sae.target)
        config |= {"d_out": sae.d_out, "hook_name_out": sae.target}
        config |= {"hook_layer_out": layer[1] if layer else 0, "hook_head_index_out": None}
    return config


def load(folder: str | Path, *, device: torch.device | str = "cpu") -> Sae:
    """Open an SAE in SAELens's layout: standard, topk, jumprelu or gated, from safetensors alone.

    Decoder rows get length 1, so that activations are in the unit of the stream. Files of a
    cross-layer transcoder are opened as `cross_layer.save_layers` wrote them.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: one cannot be read, is not what it says, or is of a kind that this package does
            not know.
    """
    folder = Path(folder)
    if (folder / "W_enc_0.safetensors").is_file():
        return cross_layer.load_layers(folder, device=device)
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
    architecture = _architecture(config, both, where)
    skips, target = False, ""
    if architecture in _TRANSCODERS:
        architecture, skips = _TRANSCODERS[architecture]
        target = both.get("hook_name_out") or ""
        if not target:
            raise ValueError(f"{where} is a transcoder that does not say where it writes")
    _require_tensors(config, tensors, where, architecture, skips)
    if architecture == "gated":
        tensors = {**tensors, **from_gated(tensors["W_enc"], *(tensors[n] for n in _GATED))}
        architecture = "jumprelu"
    kind = _KIND_OF[architecture]
    parts = {n: tensors[n].contiguous() for n in _TENSORS[:4]}
    if kind == "jumprelu" and "threshold" in tensors:
        parts["threshold"] = tensors["threshold"]
    if skips:
        parts["W_skip"] = tensors["W_skip"].T.contiguous()
    rescaled = bool(config.get("rescale_acts_by_decoder_norm"))
    k = config.get("k") or (config.get("activation_fn_kwargs") or {}).get("k")
    normalize = both.get("normalize_activations", "none")
    name = both.get("model_name") or ""
    tops = ("architecture", "d_in", "d_sae", "d_out", "dtype", "device", "k", "metadata")
    notes = meta or {key: value for key, value in config.items() if key not in tops}
    unit: dict[str, Any] = {
        **_with_unit_rows(parts, kind, rescaled, where, config.get("dtype") == "float16")
    }
    return Sae(
        kind=kind,
        **unit,
        k=int(k) if kind == "topk" and k else None,
        hook=both.get("hook_name") or both.get("hook_point") or "",
        model_id="gpt2" if name in GPT2_NAMES else name,
        normalize="none" if normalize in (False, None) else str(normalize),
        subtract_b_dec=not target and bool(config.get("apply_b_dec_to_input", True)),
        target=target,
        notes={key: value for key, value in notes.items() if value is not None},
    )


def _architecture(config: Mapping[str, Any], both: Mapping[str, Any], where: str) -> str:
    """SAELens's name for what the SAE computes; before version 5, topk was a function's name."""
    name = config.get("architecture", "standard")
    function = both.get("activation_fn_str") or both.get("activation_fn")
    if name == "standard" and function == "topk":
        name = "topk"
    known = [*_KIND_OF, "gated", *_TRANSCODERS]
    if name not in known:
        readable = ", ".join(known)
        raise ValueError(f"{where} is of architecture {name!r}; readable are {readable}")
    plain = _TRANSCODERS.get(name, (name,))[0]
    if function is not None and function not in _FUNCTIONS[plain]:
        raise ValueError(
            f"{where} is a {name} SAE with the activation function {function!r}; readable is "
            f"{' or '.join(_FUNCTIONS[plain])}"
        )
    return name


def _require_tensors(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    where: str,
    architecture: str,
    skips: bool,
) -> None:
    biases = _GATED if architecture == "gated" else ("b_enc",)
    wanted = ("W_enc", *biases, "W_dec", "b_dec", *["W_skip"] * skips)
    missing = [n for n in wanted if n not in tensors]
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


def _with_unit_rows(
    parts: dict[str, Tensor], kind: str, rescaled: bool, where: str, half: bool
) -> dict[str, Tensor]:
    """The same SAE with decoder rows of length 1, and activations longer by what rows were."""
    length = parts["W_dec"].norm(dim=-1)
    length = torch.where(length > 0, length, torch.ones_like(length))
    if torch.allclose(length, torch.ones_like(length), rtol=0, atol=1e-3 if half else 1e-5):
        return parts
    even = torch.allclose(length, length[:1].expand_as(length), rtol=1e-5)
    if kind == "topk" and not rescaled and not even:
        raise ValueError(
            f"{where} chooses its k units before their decoder rows, of length "
            f"{float(length.min()):.3g} to {float(length.max()):.3g}, count: such an SAE cannot be "
            "brought to rows of length 1"
        )
    parts = dict(parts)
    for name in ("W_enc", "b_enc", "threshold"):
        if name in parts:
            parts[name] = parts[name] * length
    parts["W_dec"] = parts["W_dec"] / length[:, None]
    return parts


def load_published(
    hook: str, release: str = "gpt2-small-res-jb", *, device: torch.device | str = "cpu"
) -> Sae:
    """A published SAE of one site, such as "blocks.8.hook_resid_pre", in one pinned revision.

    "gpt2-small-res-jb": the residual stream of GPT-2 small before every layer and after the last,
    24,576 relu units [Bloom 2024]. It needs centred writing weights, as `mi.load_model` gives them.

    What was published about it is in `notes["published"]`: its page on Neuronpedia, L0, and losses
    in nats with their source; they were measured on OpenWebText.

    Raises:
        KeyError: an unknown release or site.
        FileNotFoundError: neither cached nor to be had.
        ValueError: it is not what the release says.
    """
    releases = json.loads((files("mi_data") / "sae" / "published.json").read_text("utf-8"))
    if release not in releases:
        raise KeyError(f"no release {release!r}; there is {', '.join(releases)}")
    facts = releases[release]
    if hook not in facts["sites"]:
        raise KeyError(f"{release} has no SAE of {hook!r}; there is {', '.join(facts['sites'])}")
    sae = load(_folder(facts["repo"], facts["revision"], hook), device=device)
    if (sae.d_in, sae.d_sae, sae.hook or hook) != (facts["d_in"], facts["d_sae"], hook):
        raise ValueError(
            f"{release} at {hook} should be [{facts['d_in']}, {facts['d_sae']}], but its files "
            f"hold [{sae.d_in}, {sae.d_sae}] of {sae.hook!r}: delete them from the cache"
        )
    notes = {
        **sae.notes,
        "model_from_pretrained_kwargs": {"center_writing_weights": facts["center_writing_weights"]},
        "published": {
            **dict(zip(facts["columns"], facts["sites"][hook], strict=True)),
            "source": facts["source"],
        },
    }
    return replace(sae, model_id=facts["model"], hook=hook, notes=notes)


def _folder(repo: str, revision: str, hook: str) -> Path:
    """Where the two files lie: in the cache, without any network, or downloaded to it."""
    names = [f"{hook}/{name}" for name in (CONFIG, WEIGHTS)]
    paths = [try_to_load_from_cache(repo, name, revision=revision) for name in names]
    if not all(isinstance(path, str) for path in paths):
        if not hub.hub_answers():
            raise FileNotFoundError(
                f"{hook} of {repo}@{revision[:7]} is not in the Hugging Face cache, and the hub "
                "does not answer or HF_HUB_OFFLINE is set: run once with a network (about 150 MB)"
            )
        try:
            paths = [hf_hub_download(repo, name, revision=revision) for name in names]
        except OSError as error:  # the hub's own errors are OSErrors
            raise FileNotFoundError(f"{hook} of {repo} could not be fetched: {error}") from error
    return Path(str(paths[0])).parent
