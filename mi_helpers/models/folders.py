"""Is this a model folder in Hugging Face format, and is it one of the embedded models'?"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from mi_helpers import checksums

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "vocab.txt")
POCKET_BYTES = 24e6  # no more than this, so that nothing larger is read to be compared


def checked_folder(folder: Path) -> Path:
    """`folder` as a full path, if it holds a config, safetensors weights and a tokenizer."""
    if missing := missing_files(folder):
        raise FileNotFoundError(
            f"{folder} is not a model folder in Hugging Face format; missing: {', '.join(missing)}"
        )
    return folder.resolve()


def missing_files(folder: Path) -> list[str]:
    """What a model folder lacks, in words."""
    index = folder / "model.safetensors.index.json"
    wanted = ["config.json"]
    if index.is_file():
        wanted += sorted(set(json.loads(index.read_text())["weight_map"].values()))
    missing = [file for file in wanted if not (folder / file).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors (pickled weights are never loaded)")
    if not any((tokenizer_folder(folder) / file).is_file() for file in TOKENIZER_FILES):
        missing.append(f"a tokenizer ({TOKENIZER_FILES[0]} or {TOKENIZER_FILES[1]})")
    return missing


def pockets() -> dict[str, Path]:
    """The folders of the embedded models by name, whether or not they are there.

    "pocket", which the suite is written for, stands first; then those of its recipe from other
    seeds, "pocket-seed-1"; then one run of half its length, "pocket-half-1548", after so many
    steps; then "pocket-tuned" and "pocket-control", trained a little further.
    """
    root = _root()
    return {
        "pocket": root / "model",
        **_numbered(root / "seeds", "pocket-seed"),
        **_numbered(root / "half", "pocket-half"),
        "pocket-tuned": root / "tuned" / "model",
        "pocket-control": root / "tuned" / "control",
    }


def pocket_folder(name: str) -> Path:
    """The folder of an embedded model, after every file in it was compared with its checksum.

    All of them share pocket's tokenizer, which their checksums name too.

    Raises:
        FileNotFoundError: There is no such model, or it is not here.
        ValueError: A file is missing or altered.
    """
    folder = pockets().get(name)
    if folder is None:
        raise FileNotFoundError(f"no embedded model {name!r}: there are {', '.join(pockets())}")
    if not folder.is_dir():
        raise FileNotFoundError(f"the embedded model is not in {folder}: install the package anew")
    checksums.check(folder, f"restore it with `git checkout -- {pocket_path(name)}`")
    return checked_folder(folder)


def pocket_path(name: str) -> str:
    """Where an embedded model lies in the repository."""
    return f"data/pocket/{pockets()[name].relative_to(_root()).as_posix()}"


def which_pocket(folder: Path) -> str | None:
    """The name of the embedded model whose weights lie in `folder`, byte for byte, if any."""
    weights = folder / "model.safetensors"
    if not weights.is_file() or weights.stat().st_size > POCKET_BYTES:
        return None
    digest = checksums.sha256(weights)
    for name, own in pockets().items():
        if (own / checksums.SUMS).is_file():
            if checksums.read(own).get("model.safetensors") == digest:
                return name
    return None


def tokenizer_folder(folder: Path) -> Path:
    """Where the tokenizer of a model folder lies: in it, but that the pockets share one."""
    theirs = {path.resolve() for path in pockets().values()}
    return pockets()["pocket"] if folder.resolve() in theirs else folder


def _numbered(folder: Path, name: str) -> dict[str, Path]:
    """The folders in `folder` whose name is a number, by `name` with that number, least first."""
    found = sorted(folder.glob("[0-9]*"), key=lambda path: int(path.name))
    return {f"{name}-{path.name}": path for path in found}


def _root() -> Path:
    return Path(str(resources.files("mi_data"))) / "pocket"
