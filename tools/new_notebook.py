"""Start a notebook: write the four files that are written by hand, from the worked example.

    python tools/new_notebook.py 14_tuned_lens        (or: make new NAME=14_tuned_lens)

The four are the source, its claims, its checks and their wrong answers. The example is the one of
notebooks/src/README.md, in tests/demo. What is written builds, runs and passes the tests as it is;
its header says `draft: true`, which lifts the least numbers of claims, exercises and widgets.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = "tests/demo"


def checks_folder(root: Path) -> Path:
    """Where the checks of the notebooks are."""
    [folder] = {path.parent for path in (root / "mi_helpers").rglob("checks/nb[0-9][0-9].py")}
    return folder


def files(root: Path, name: str) -> dict[Path, Path]:
    """The example's files, and where those of notebook `name` belong."""
    example, number = root / EXAMPLE, name[:2]
    return {
        example / "99_demo.py": root / "notebooks" / "src" / f"{name}.py",
        example / "99_demo.toml": root / "data" / "claims" / f"{name}.toml",
        example / "demo_checks" / "nb99.py": checks_folder(root) / f"nb{number}.py",
        example / "wrong_answers" / "nb99.py": root / "tests" / "wrong_answers" / f"nb{number}.py",
    }


def adapted(text: str, name: str) -> str:
    """The example's text with the notebook's number, title and topic."""
    number, topic = name.split("_", 1)
    title = topic.replace("_", " ").capitalize()
    header = rf"# title: {title}\n\1# draft: true\n"
    text = re.sub(r"^# title: .*\n(# minutes: .*\n)", header, text, flags=re.MULTILINE)
    text = text.replace("demo.", f"{topic}.").replace("logit_difference", topic)
    return text.replace("notebook 99", f"notebook {number}")


def write(root: Path, name: str) -> list[Path]:
    """Write the four files; returns their paths.

    Raises:
        ValueError: the name is not NN_name, or its number, its topic or a file is taken.
    """
    if not re.fullmatch(r"\d\d_[a-z][a-z0-9_]*", name):
        raise ValueError(f"{name!r} is no name for a notebook: two digits and words, 14_tuned_lens")
    taken = sorted((root / "notebooks" / "src").glob(f"{name[:2]}_*.py"))
    if taken:
        raise ValueError(f"number {name[:2]} is taken by {taken[0].stem}")
    wanted = files(root, name)
    if there := [path for path in wanted.values() if path.exists()]:
        raise ValueError(f"{there[0].relative_to(root)} is there already")
    topic = name[3:]
    if any(
        f"def {topic}(" in path.read_text(encoding="utf-8")
        for path in checks_folder(root).glob("nb*.py")
    ):
        raise ValueError(f"an exercise is called {topic} already: choose another name")
    for example, path in wanted.items():
        path.write_text(adapted(example.read_text(encoding="utf-8"), name), encoding="utf-8")
    return list(wanted.values())


def main(arguments: list[str]) -> int:
    """Command line."""
    if len(arguments) != 1:
        print("Which one? For example: make new NAME=14_tuned_lens")
        return 2
    try:
        paths = write(ROOT, arguments[0])
    except ValueError as err:
        print(f"error: {err}")
        return 2
    python = [str(path) for path in paths if path.suffix == ".py"]
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", *python], check=True)
    for path in paths:
        print(f"wrote {path.relative_to(ROOT)}")
    print("Next: write in them, `make notebooks`, `make run`, `make readme`, `make test`.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
