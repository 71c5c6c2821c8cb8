"""Write build/workshop: all that a room without a network needs, in one folder.

    python tools/workshop.py                                    for this platform and this Python
    python tools/workshop.py --all                              for a room of any laptops
    python tools/workshop.py --python 3.11 3.12 --platform linux-x86_64 windows-x86_64
    python tools/workshop.py --model smollm2-q4 --archive       with a larger model, and as a .zip
    python tools/workshop.py --record                           and keep in data/ what it weighs

The folder holds the tracked files of the repository, the short ways through its notebooks, its
locked packages as wheels, models, the site of `make site`, and START.md with start.py, which sets
all of it up without a network. What could not be had for a platform is told, and makes the status
1; the kit of the others is written.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from build_notebooks import SHORT, write_short
from gallery import ROOT, machine
from packaging.requirements import Requirement
from release import tracked_files
from setup_env import CPU_INDEX, LOCK, index_answers
from website import SITE

KIT = ROOT / "build" / "workshop"
PARTS = Path(__file__).with_name("kit")
MEASURED = ROOT / "data" / "room.json"  # what kits weighed and took; the documents state it
INSTALLED = 2.5  # GB that the environment takes once it is set up, at most; a test measures it
MACOS = [*(f"{v}_0" for v in range(14, 10, -1)), *(f"10_{v}" for v in range(16, 8, -1))]
# Newest first: pip takes wheels of any of them. The oldest are what old laptops can run.
TAGS = {
    "linux-x86_64": ["manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64",
                     "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_12_x86_64",
                     "manylinux_2_5_x86_64", "manylinux1_x86_64"],
    "linux-aarch64": ["manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64",
                      "manylinux2014_aarch64"],
    "macos-arm64": [f"macosx_{v}_{a}" for v in MACOS for a in ("arm64", "universal2")],
    "macos-x86_64": [f"macosx_{v}_{a}" for v in MACOS for a in ("x86_64", "universal2")],
    "windows-x86_64": ["win_amd64"],
    "windows-arm64": ["win_arm64"],
}  # fmt: skip
# What `--all` takes. PyTorch has no wheels of its present version for Macs with Intel processors,
# nor for Windows on Arm, which runs the Python and the wheels of x86-64.
ROOM = ("linux-x86_64", "linux-aarch64", "macos-arm64", "windows-x86_64")
PYTHONS = ("3.11", "3.12", "3.13")
SYSTEMS = {
    "linux": ("linux", "Linux", "posix"),
    "macos": ("darwin", "Darwin", "posix"),
    "windows": ("win32", "Windows", "nt"),
}
MODELS = ("pocket", "smollm2-q4", "gpt2")


@dataclass(frozen=True)
class Target:
    """One kind of laptop: a platform of TAGS and a version of Python such as "3.12"."""

    platform: str
    python: str

    def __str__(self) -> str:
        return f"{self.platform}, Python {self.python}"

    def environment(self) -> dict[str, str]:
        """What the markers of requirements ask about this laptop."""
        system, _, machine = self.platform.partition("-")
        sys_platform, platform_system, os_name = SYSTEMS[system]
        if system == "windows" and machine == "x86_64":
            machine = "AMD64"
        return {
            "sys_platform": sys_platform, "platform_system": platform_system, "os_name": os_name,
            "platform_machine": machine, "python_version": self.python,
            "python_full_version": f"{self.python}.99", "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }  # fmt: skip

    def pip(self) -> list[str]:
        """pip's options for this laptop's wheels."""
        tags = [part for tag in TAGS[self.platform] for part in ("--platform", tag)]
        version = self.environment()["python_full_version"]
        return ["--only-binary", ":all:", "--python-version", version, *tags]


def this_machine() -> Target:
    """The laptop that this runs on."""
    system = {"Darwin": "macos"}.get(platform.system(), platform.system().lower())
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "aarch64": "aarch64" if system == "linux" else "arm64"}.get(
        machine, machine
    )
    return Target(f"{system}-{machine}", "{}.{}".format(*sys.version_info[:2]))


def requirements(target: Target, lock: str) -> list[str]:
    """The locked requirements of one laptop without their markers, and uv, the fast installer."""
    found = []
    for line in lock.splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        one = Requirement(text)
        if one.marker is None or one.marker.evaluate(target.environment()):
            found.append(f"{one.name}{one.specifier}")
    return [*found, "uv>=0.5"]


def pip(*arguments: object) -> bool:
    """Run pip without its chatter; True when it did what it was told."""
    command = [sys.executable, "-m", "pip", *map(str, arguments), "--disable-pip-version-check"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def torch_source(target: Target) -> list[str]:
    """pip's options for torch: on Linux the CPU build, from its index or from a wheel at hand."""
    if not target.platform.startswith("linux"):
        return []
    if index_answers(f"{CPU_INDEX}/torch/"):
        return ["--index-url", CPU_INDEX]
    return ["--no-index"] if target.platform == this_machine().platform else []


def download(target: Target, wheels: Path, lock: str) -> Iterator[str]:
    """Put the wheels of one laptop into a folder; yields the requirements that were not to be had.

    What its author publishes as a source alone is built here, where the result serves any platform.
    """
    wanted = requirements(target, lock)
    torch = [one for one in wanted if one.startswith("torch==")]
    rest = [one for one in wanted if one not in torch]
    get = ("download", "--quiet", "--no-deps", "--find-links", wheels, "--dest", wheels)
    for one in torch:
        if not pip(*get, *target.pip(), *torch_source(target), one):
            yield one
    yield from fetch(rest, [*get, *target.pip()], wheels)


def fetch(wanted: list[str], get: Sequence[object], wheels: Path) -> Iterator[str]:
    """Download all at once or, where that fails, by halves, until it is known which one it is."""
    if not wanted or pip(*get, *wanted):
        return
    if len(wanted) > 1:
        half = len(wanted) // 2
        yield from fetch(wanted[:half], get, wheels)
        yield from fetch(wanted[half:], get, wheels)
    elif not build_pure(wanted[0], wheels):
        yield wanted[0]


def build_pure(requirement: str, wheels: Path) -> bool:
    """Build a wheel that any platform can use; False where there is none to build."""
    scratch = wheels / "built"
    try:
        if not pip("wheel", "--quiet", "--no-deps", "--wheel-dir", scratch, requirement):
            return False
        [wheel] = scratch.glob("*.whl")
        if not wheel.name.endswith("-none-any.whl"):
            return False
        os.replace(wheel, wheels / wheel.name)
        return True
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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
        f"On Windows: `set MI_MODEL={name}`, then `py start.py`."
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


def write_start(kit: Path, targets: Sequence[Target], notes: Sequence[str]) -> None:
    """Write START.md, start.py, and the versions of Python that start.py asks for."""
    pythons = list(dict.fromkeys(target.python for target in targets))
    (kit / "wheels" / "PYTHONS").write_text("\n".join(pythons) + "\n", encoding="utf-8")
    shutil.copyfile(PARTS / "start.py", kit / "start.py")
    text = (PARTS / "START.md").read_text(encoding="utf-8")
    need = gigabytes(kit) + INSTALLED
    text = text.format(
        need=f"{need:.1f}",
        pythons=" or ".join(pythons),
        platforms=", ".join(dict.fromkeys(target.platform for target in targets)),
        models="\n".join(notes),
    )
    (kit / "START.md").write_text(text, encoding="utf-8")


def build(kit: Path, targets: Sequence[Target], models: Sequence[str], site: Path) -> list[str]:
    """Write the kit; returns what was not to be had, a line each.

    Raises:
        FileNotFoundError: there is no site, or a model is not on this machine.
    """
    if not (site / "index.html").is_file():
        raise FileNotFoundError(f"no site in {site}: `make run site` first")
    shutil.rmtree(kit, ignore_errors=True)
    wheels = kit / "wheels"
    wheels.mkdir(parents=True)
    copy_repository(kit / "repository")
    write_short(ROOT, kit / "repository" / SHORT)
    shutil.copytree(site, kit / "site")
    notes = [copy_model(name, kit / "models") for name in models]
    lock, missing = LOCK.read_text(encoding="utf-8"), []
    for target in targets:
        start = time.monotonic()
        lost = list(download(target, wheels, lock))
        print(f"{target}: {len(lost)} missing, {time.monotonic() - start:.0f} s", flush=True)
        missing += [f"{one} for {target}" for one in lost]
    write_start(kit, targets, notes)
    return missing


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
        missing = build(options.out, targets, options.model, options.site)
    except FileNotFoundError as err:
        print(err, file=sys.stderr)
        return 1
    sizes = weights(options.out)
    for name, size in sizes.items():
        print(f"{name}: {size:.2f} GB")
    print(f"{options.out} begins with START.md")
    if options.record:
        pages = sum(1 for _ in (options.out / "site").glob("[0-9][0-9]_*.html"))
        kinds = [str(target) for target in targets]
        record(
            ", ".join(kinds) if len(kinds) == 1 else f"{len(kinds)} kinds of laptop",
            {"kinds": kinds, "gb": sizes, "site's notebooks": pages, "missing": missing},
        )
    if options.archive:
        made = shutil.make_archive(str(options.out), "zip", options.out.parent, options.out.name)
        print(f"{Path(made).stat().st_size / 1e9:.2f} GB in {made}")
    for line in missing:
        print(f"not to be had: {line}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
