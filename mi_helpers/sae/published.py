"""Published SAEs, from the Hugging Face cache or the hub, in one pinned revision."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache

from mi_helpers import _model_files
from mi_helpers.sae.core import Sae
from mi_helpers.sae.files import CONFIG, WEIGHTS, load


def load_published(
    hook: str, release: str = "gpt2-small-res-jb", *, device: torch.device | str = "cpu"
) -> Sae:
    """A published SAE of one site, such as "blocks.8.hook_resid_pre", for `splice` and `fidelity`.

    "gpt2-small-res-jb": the residual stream of GPT-2 small before every layer and after the last,
    24,576 relu units [Bloom 2024]. It needs centred writing weights, as `mi.load_model` gives them.

    What was published about it is in `notes["published"]`: its page on Neuronpedia, L0, and losses
    in nats with their source; they were measured on OpenWebText.

    Raises KeyError for an unknown release or site, FileNotFoundError when it is neither cached nor
    to be had, ValueError when it is not what the release says.
    """
    releases = _releases()
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
        if not _model_files.hub_answers():
            raise FileNotFoundError(
                f"{hook} of {repo}@{revision[:7]} is not in the Hugging Face cache, and the hub "
                "does not answer or HF_HUB_OFFLINE is set: run once with a network (about 150 MB)"
            )
        try:
            paths = [hf_hub_download(repo, name, revision=revision) for name in names]
        except OSError as error:  # the hub's own errors are OSErrors
            raise FileNotFoundError(f"{hook} of {repo} could not be fetched: {error}") from error
    return Path(str(paths[0])).parent


def _releases() -> dict[str, Any]:
    text = (files("mi_data") / "sae" / "published.json").read_text(encoding="utf-8")
    return json.loads(text)
