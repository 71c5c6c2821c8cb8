"""The Hugging Face cache and hub: what is kept here, whether the hub answers, and downloads.

A cached model is found without the network: `transformers` asks about it all the same, and retries
for minutes when there is no network.
"""

from __future__ import annotations

import json
import os
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from huggingface_hub import (
    HfApi,
    constants,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HFValidationError

from mi_helpers.files import disk_is_full
from mi_helpers.models.folders import missing_files

GPT2_REPO = "openai-community/gpt2"
GPT2_REVISION = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
PATTERNS = ["*.json", "*.safetensors", "*.model", "merges.txt", "vocab.txt"]
PROBE_SECONDS = 2.0
LISTING_SECONDS = 20.0

T = TypeVar("T")


def cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """The folder of a complete cached snapshot; never asks the network.

    GPT-2 small is also found under its former name, "gpt2", in the same revision.

    Raises:
        ValueError: `repo` is no possible hub name.
    """
    for name in (repo, "gpt2") if repo == GPT2_REPO else (repo,):
        try:
            config = try_to_load_from_cache(name, "config.json", revision=revision)
        except HFValidationError:
            raise ValueError(
                f"{repo!r} is neither a folder here (in {Path.cwd()}) nor a possible hub name: "
                "give a folder's full path, 'pocket', 'smollm2', 'gpt2', or a hub name such as "
                "'EleutherAI/pythia-70m'"
            ) from None
        if isinstance(config, str) and not missing_files(Path(config).parent):
            return Path(config).parent
    return None


def hub_answers() -> bool:
    """Whether the hub hands out one small file within PROBE_SECONDS.

    A web page, be it a proxy's error or a hotel's login, is no answer.
    """
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    if offline or constants.HF_HUB_OFFLINE:
        return False

    def ask() -> bool:
        url = f"{constants.ENDPOINT}/{GPT2_REPO}/resolve/{GPT2_REVISION}/config.json"
        with urllib.request.urlopen(url, timeout=PROBE_SECONDS) as reply:
            return isinstance(json.loads(reply.read(1 << 16)), dict)

    try:
        return _within(PROBE_SECONDS, ask)
    except (OSError, ValueError, FutureTimeout):
        return False


def download(repo: str, revision: str | None) -> Path:
    """Fetch a model into the Hugging Face cache, after a line that says how large it is.

    Raises:
        FileNotFoundError: The hub refuses, answers with something else, or falls silent.
    """
    begun = ""
    try:
        size = _within(LISTING_SECONDS, lambda: _first_answers(repo, revision))
        begun = ". Call again to go on: whole files are kept, and half a model is never used"
        print(f"Downloading {repo}: {size / 1e6:,.0f} MB, kept in {constants.HF_HUB_CACHE}")
        return Path(snapshot_download(repo, revision=revision, allow_patterns=PATTERNS))
    except FutureTimeout:
        reason = f"{constants.ENDPOINT} said nothing for {LISTING_SECONDS:.0f} seconds"
    except json.JSONDecodeError:
        reason = f"{constants.ENDPOINT} answers with a page that lists no model"
    except Exception as error:  # whatever the hub's client and its HTTP library raise
        reason = str(error) or type(error).__name__
        if disk_is_full(error):
            where = constants.HF_HUB_CACHE
            reason = f"no space left in {where}: free some, or set HF_HUB_CACHE to another disk"
    raise FileNotFoundError(f"{repo!r} could not be downloaded: {reason}{begun}")


def _first_answers(repo: str, revision: str | None) -> int:
    """The bytes of a model's files, as the hub lists them, once the smallest of them is here."""
    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=LISTING_SECONDS)
    hf_hub_download(repo, "config.json", revision=revision)
    return sum(
        file.size or 0
        for file in info.siblings or []
        if any(fnmatch(file.rfilename, pattern) for pattern in PATTERNS)
    )


def _within(seconds: float, function: Callable[[], T]) -> T:
    """What `function` returns, if it does so in time; concurrent.futures.TimeoutError otherwise.

    It runs in a thread that nobody waits for, because the look-up of a host's name obeys no
    timeout.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)
