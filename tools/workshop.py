"""Write build/workshop: all that a room without a network needs, in one folder.

    python tools/workshop.py                                    for this platform and this Python
    python tools/workshop.py --all                              for a room of any laptops
    python tools/workshop.py --python 3.11 3.12 --platform linux-x86_64 windows-x86_64
    python tools/workshop.py --model smollm2-q4 --archive       with a larger model, and as a .zip
    python tools/workshop.py --record                           and keep in data/ what it weighs

The folder holds the tracked files of the repository, the short ways through its notebooks, its
locked packages as wheels, models, the site of `make site`, and START.md with start.py, which sets
all of it up without a network. What could not be had for a laptop is told, here and in START.md,
and makes the status 1; the kit of the others is written. The kit that was there before is replaced
at the end, and stays where something could not be had for a laptop that it serves.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from build_notebooks import SHORT, write_short
from gallery import ROOT, machine
from laptops import INSTEAD, NAMES, PYTHONS, ROOM, TAGS, Target, download, resolves, this_machine
from release import tracked_files
from setup_env import LOCK, SPACE
from website import SITE

KIT = ROOT / "build" / "workshop"
PARTS = Path(__file__).with_name("kit")
MEASURED = ROOT / "data" / "room.json"  # what kits weighed and took; the documents state it
KINDS = "KINDS"  # in wheels/: the laptops that start.py sets up, one a line
AGAIN = "(network lost? the same call tries again)"
MODELS = ("pocket", "smollm2-q4", "gpt2")


def copy_repository(target: Path, root: Path = ROOT) -> None:
    """Copy the tracked files, so that nothing else can slip in."""
    for line in tracked_files(root):
        (target / line).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / line, target / line)


def copy_model(name: str, models: Path) -> str:
    """Copy a model of this machine into the kit; returns what START.md says of it.

    Raises:
        FileNotFoundError: the model is not on this machine; the message says how to get it.
    """
    if name == "pocket":
        return "The notebooks run on `pocket`, a small model that is in the repository."
    from huggingface_hub import constants

    from mi_helpers.models import hub, smollm2

    if name == "smollm2-q4":
        made = smollm2.converted_folder()
        if not made.is_dir():
            raise FileNotFoundError("SmolLM2 is not on this machine: `make real` first")
        shutil.copytree(made, models / "mi-helpers" / made.name)
    else:
        snapshot = hub.cached_snapshot(hub.GPT2_REPO, hub.GPT2_REVISION)
        if snapshot is None:
            raise FileNotFoundError("GPT-2 is not in the cache: mi.load_model('gpt2') fetches it")
        shutil.copytree(snapshot, models / "hub" / snapshot.relative_to(constants.HF_HUB_CACHE))
    return (
        f"`MI_MODEL={name} python3 start.py` runs them on `{name}`, which takes minutes. "
        f'In PowerShell on Windows: `$env:MI_MODEL="{name}"`, then `py start.py`.'
    )


def gigabytes(folder: Path) -> float:
    """How much the files of a folder weigh, in GB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


def weights(kit: Path) -> dict[str, float]:
    """GB of each folder of a kit, and of the whole."""
    parts = {path.name: gigabytes(path) for path in sorted(kit.iterdir()) if path.is_dir()}
    return {name: round(size, 3) for name, size in (parts | {"whole": gigabytes(kit)}).items()}


def record(name: str, found: Mapping[str, object], file: Path = MEASURED) -> None:
    """Write what was measured of one kit into the file, in place of what stands there of it."""
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    kept[name] = {"machine": machine(), **found}
    file.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def either(words: Sequence[str]) -> str:
    """The words as "a, b or c"."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def kinds_said(whole: Sequence[Target]) -> str:
    """The laptops whose wheels are all there, a line for each platform."""
    said = []
    for platform in dict.fromkeys(target.platform for target in whole):
        pythons = [target.python for target in whole if target.platform == platform]
        said.append(f"   - {NAMES[platform]}, Python {either(pythons)}")
    return "\n".join(said) or "   - none: every kind lacks something, named at the end"


def others_said(whole: Sequence[Target], missing: Mapping[Target, Sequence[str]]) -> str:
    """What is missing for which laptop, and what its owner can do."""
    said = [
        f"- {NAMES[target.platform]}, Python {target.python}: {', '.join(lost)} could not be had."
        for target, lost in missing.items()
    ]
    there = {target.platform.partition("-")[0] for target in whole}
    for name, instead in INSTEAD.items():
        if name.partition("-")[0] in there and name not in {one.platform for one in whole}:
            said.append(f"- {NAMES[name]}: {instead}")
    said.append("- Any other: share a neighbour's laptop, or read the site.")
    return "\n".join(said)


def write_start(kit: Path, found: Mapping[Target, Sequence[str]], notes: Sequence[str]) -> None:
    """Write START.md, start.py, and wheels/KINDS, the laptops that start.py sets up."""
    whole = [target for target, lost in found.items() if not lost]
    missing = {target: lost for target, lost in found.items() if lost}
    kinds = "".join(f"{target.platform} {target.python}\n" for target in whole)
    (kit / "wheels" / KINDS).write_text(kinds, encoding="utf-8")
    shutil.copyfile(PARTS / "start.py", kit / "start.py")
    text = (PARTS / "START.md").read_text(encoding="utf-8")
    text = text.format(
        need=f"{gigabytes(kit) + SPACE:.1f}",
        kinds=kinds_said(whole),
        models="\n".join(notes),
        others=others_said(whole, missing),
    )
    (kit / "START.md").write_text(text, encoding="utf-8")


def collect(targets: Sequence[Target], wheels: Path) -> dict[Target, list[str]]:
    """Fetch the wheels of each laptop; what was not to be had for it, nothing where it is whole."""
    lock, found = LOCK.read_text(encoding="utf-8"), {}
    for target in targets:
        start = time.monotonic()
        lost = list(download(target, wheels, lock))
        if not lost and (told := resolves(target, wheels, ROOT)):
            lost = [told]
        found[target] = lost
        print(f"{target}: {len(lost)} missing, {time.monotonic() - start:.0f} s", flush=True)
    return found


def build(
    kit: Path, targets: Sequence[Target], models: Sequence[str], site: Path
) -> dict[Target, list[str]]:
    """Write the kit; returns for each laptop what was not to be had.

    Raises:
        FileNotFoundError: there is no site, a model is not on this machine, or wheels are not to be
            had of a laptop that the kit before serves: that kit stays, the new one is beside it.
    """
    if not (site / "index.html").is_file():
        raise FileNotFoundError(f"no site in {site}: `make run site` first")
    part = kit.with_name(f"{kit.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "wheels").mkdir(parents=True)
    copy_repository(part / "repository")
    write_short(ROOT, part / "repository" / SHORT)
    shutil.copytree(site, part / "site")
    notes = [copy_model(name, part / "models") for name in models]
    found = collect(targets, part / "wheels")
    write_start(part, found, notes)
    replace(kit, part, found)
    return found


def replace(kit: Path, part: Path, found: Mapping[Target, Sequence[str]]) -> None:
    """Put a new kit in the old one's place, unless a laptop that the old one serves would lose."""
    old = kit / "wheels" / KINDS
    served = old.read_text(encoding="utf-8").splitlines() if old.is_file() else []
    lost = [f"{one} for {target}" for target in found for one in found[target]
            if f"{target.platform} {target.python}" in served]  # fmt: skip
    if lost:
        raise FileNotFoundError(
            f"not to be had: {', '.join(lost)}. {kit} has it and is kept; the new kit is {part} "
            f"{AGAIN}"
        )
    shutil.rmtree(kit, ignore_errors=True)
    part.rename(kit)


def told(kit: Path, found: Mapping[Target, Sequence[str]]) -> dict[str, object]:
    """What `--record` keeps of a kit: its laptops, weights in GB, wheels, what is missing."""
    return {
        "kinds": [str(target) for target, lost in found.items() if not lost],
        "missing": [f"{one} for {target}" for target, lost in found.items() for one in lost],
        "gb": weights(kit),
        "wheels": len(list((kit / "wheels").glob("*.whl"))),
        "torch, GB": round(sum(f.stat().st_size for f in kit.glob("wheels/torch-*.whl")) / 1e9, 3),
        "site's notebooks": len(list((kit / "site").glob("[0-9][0-9]_*.html"))),
    }


def main() -> int:
    """Read the command line and do what it asks."""
    here = this_machine()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--platform", nargs="+", choices=TAGS, default=[here.platform])
    parser.add_argument("--python", nargs="+", default=[here.python], help="such as 3.11 3.12")
    parser.add_argument("--all", action="store_true", help=", ".join(ROOM + PYTHONS))
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["pocket"])
    parser.add_argument("--site", type=Path, default=SITE)
    parser.add_argument("--out", type=Path, default=KIT)
    parser.add_argument("--archive", action="store_true", help="also write one .zip of it")
    parser.add_argument("--record", action="store_true", help="write its weight to data/room.json")
    options = parser.parse_args()
    platforms, pythons = (ROOM, PYTHONS) if options.all else (options.platform, options.python)
    targets = [Target(name, python) for name in platforms for python in pythons]
    try:
        found = build(options.out, targets, options.model, options.site)
    except FileNotFoundError as err:
        print(err, file=sys.stderr)
        return 1
    kept = told(options.out, found)
    for name, size in weights(options.out).items():
        print(f"{name}: {size:.2f} GB")
    print(f"{kept['wheels']} wheels; {options.out} begins with START.md")
    if options.record:
        record("all" if options.all else str(either([*map(str, targets)])), kept)
    if options.archive:
        made = shutil.make_archive(str(options.out), "zip", options.out.parent, options.out.name)
        print(f"{Path(made).stat().st_size / 1e9:.2f} GB in {made}")
    missing = [f"{one} for {target}" for target, lost in found.items() for one in lost]
    for line in missing:
        print(f"not to be had: {line} {AGAIN}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
