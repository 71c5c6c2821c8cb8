"""Find the folder that holds a model: embedded, local, in the Hugging Face cache, or on the hub.

Everything ends in a folder, and is read from it: `transformers` asks the network about a cached
model too, and retries for minutes when there is none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import urllib.request
from importlib import resources
from pathlib import Path

from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

GPT2_REPO = "openai-community/gpt2"
GPT2_REVISION = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
GPT2_NAMES = ("gpt2", "gpt2-small", GPT2_REPO)
GET_GPT2 = (
    "For GPT-2 small, run once with a network (548 MB, kept in the Hugging Face cache) "
    "or set MI_GPT2_DIR to a folder that holds it"
)
PROBE_SECONDS = 2.0
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "vocab.txt")
HUB_PATTERNS = ["*.json", "*.safetensors", "*.model", "merges.txt", "vocab.txt"]


def default_name() -> tuple[str, str]:
    """The model to load when none is named, and a note on that choice for the reader."""
    if os.environ.get("MI_GPT2_DIR") or cached_snapshot(GPT2_REPO, GPT2_REVISION) or hub_answers():
        return "gpt2", ""
    return "pocket", f"GPT-2 small is not cached and the hub does not answer. {GET_GPT2}."


def locate(name: str) -> tuple[Path, str]:
    """The folder that holds the model called `name`, and in words where that is.

    Raises:
        FileNotFoundError: no such folder, files missing in it, or a hub model that is neither
            cached nor to be had.
        ValueError: an impossible name, or an embedded file that does not match its checksum.
    """
    if name == "pocket":
        return pocket_folder(), "data/pocket/model"
    if name in GPT2_NAMES:
        if folder := os.environ.get("MI_GPT2_DIR"):
            return checked_folder(Path(folder).expanduser()), f"MI_GPT2_DIR={folder}"
        return _hub_folder(GPT2_REPO, GPT2_REVISION)
    path = Path(name).expanduser()
    if path.is_dir():
        return checked_folder(path), str(path)
    if path.is_absolute() or name.startswith((".", "~")):
        raise FileNotFoundError(f"there is no folder {name!r}: give a folder, 'pocket' or 'gpt2'")
    return _hub_folder(name, None)


def _hub_folder(repo: str, revision: str | None) -> tuple[Path, str]:
    """The snapshot of a hub model: from the cache without any network, else downloaded."""
    label = f"{repo}@{revision[:7]}" if revision else repo
    try:
        folder = cached_snapshot(repo, revision)
    except HFValidationError:
        raise ValueError(
            f"{repo!r} is neither a folder here nor a possible hub name: "
            "give a folder, 'pocket', 'gpt2', or a hub name such as 'EleutherAI/pythia-70m'"
        ) from None
    if folder:
        return folder, f"{label} in the Hugging Face cache"
    if not hub_answers():
        raise FileNotFoundError(
            f"{repo!r} is not in the Hugging Face cache ({constants.HF_HUB_CACHE}), and "
            f"{constants.ENDPOINT} does not answer or HF_HUB_OFFLINE is set. {GET_GPT2}; "
            "mi.load_model('pocket') needs no network."
        )
    try:
        path = snapshot_download(repo, revision=revision, allow_patterns=HUB_PATTERNS)
    except OSError as error:  # the hub's own errors (no such model, gated, no disk) are OSErrors
        raise FileNotFoundError(f"{repo!r} could not be downloaded: {error}") from error
    return checked_folder(Path(path)), f"{label}, downloaded"


def cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """The folder of a complete cached snapshot; never asks the network.

    GPT-2 small is also found under its former name, "gpt2", in the same revision.
    """
    for name in (repo, "gpt2") if repo == GPT2_REPO else (repo,):
        config = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(config, str) and not _missing(Path(config).parent):
            return Path(config).parent
    return None


def hub_answers() -> bool:
    """Whether the hub grants one small request within PROBE_SECONDS.

    A proxy's error page is no answer. The request runs in a thread because the look-up of the
    host's name obeys no timeout.
    """
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    if offline or constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def ask() -> None:
        url = f"{constants.ENDPOINT}/{GPT2_REPO}/resolve/{GPT2_REVISION}/config.json"
        request = urllib.request.Request(url, method="HEAD")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
            answered.set()

    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(PROBE_SECONDS)


def checked_folder(folder: Path) -> Path:
    """`folder`, if it holds a config, safetensors weights and a tokenizer."""
    if missing := _missing(folder):
        raise FileNotFoundError(
            f"{folder} is not a model folder in Hugging Face format; missing: {', '.join(missing)}"
        )
    return folder


def _missing(folder: Path) -> list[str]:
    """What a model folder lacks, in words."""
    index = folder / "model.safetensors.index.json"
    wanted = ["config.json"]
    if index.is_file():
        wanted += sorted(set(json.loads(index.read_text())["weight_map"].values()))
    missing = [file for file in wanted if not (folder / file).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors (pickled weights are never loaded)")
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        missing.append(f"a tokenizer ({TOKENIZER_FILES[0]} or {TOKENIZER_FILES[1]})")
    return missing


def pocket_folder() -> Path:
    """The embedded model's folder, after every file in it was compared with its checksum."""
    folder = Path(str(resources.files("mi_data"))) / "pocket" / "model"
    if not folder.is_dir():
        raise FileNotFoundError(f"the embedded model is not in {folder}: install the package anew")
    for file, expected in checksums(folder).items():
        actual = sha256(folder / file) if (folder / file).is_file() else "no such file"
        if actual != expected:
            raise ValueError(
                f"{folder / file} is not the published file (sha256 {actual[:12]}, expected "
                f"{expected[:12]}): restore it with `git checkout -- data/pocket/model`"
            )
    return checked_folder(folder)


def checksums(folder: Path) -> dict[str, str]:
    """File name to sha256, read from SHA256SUMS in the format of `sha256sum`."""
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        raise FileNotFoundError(f"{sums} is missing, so the model beside it cannot be verified")
    pairs = (line.split(maxsplit=1) for line in sums.read_text().splitlines() if line.strip())
    return {file.lstrip("*").strip(): digest for digest, file in pairs}


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_pocket(folder: Path) -> bool:
    """Whether the weights in `folder` are the embedded model's, byte for byte."""
    own = Path(str(resources.files("mi_data"))) / "pocket" / "model"
    weights = folder / "model.safetensors"
    if not (own / "SHA256SUMS").is_file() or not weights.is_file():
        return False
    if weights.stat().st_size > 24e6:
        return False
    return sha256(weights) == checksums(own).get("model.safetensors")
