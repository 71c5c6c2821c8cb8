"""The release that badges, Colab cells and links name: one setting, which a release fills in.

It is the line `Release = "https://github.com/OWNER/NAME/releases/tag/TAG"` of `[project.urls]` in
pyproject.toml. While it is not there nothing is published, and nothing points to a repository.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef]

ADDRESS = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+)/releases/tag/([\w.+-]+)")


@dataclass(frozen=True)
class Release:
    """A published state of the repository."""

    owner: str
    name: str
    tag: str

    @property
    def repository(self) -> str:
        """The repository's address."""
        return f"https://github.com/{self.owner}/{self.name}"

    def file(self, path: str) -> str:
        """The address of a file as of this release."""
        return f"{self.repository}/blob/{self.tag}/{path}"

    def colab(self, path: str) -> str:
        """The address that opens a notebook in Colab."""
        return f"https://colab.research.google.com/github/{self.owner}/{self.name}/blob/{self.tag}/{path}"

    def requirement(self, package: str, newest: bool = False) -> str:
        """What pip installs `package` from: this release, or the newest state there is."""
        return f"{package} @ git+{self.repository}" + ("" if newest else f"@{self.tag}")


def read_pyproject(root: Path) -> dict[str, Any]:
    """pyproject.toml of the checkout at `root`."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def read_release(root: Path) -> Release | None:
    """The release that pyproject.toml names; None while there is none.

    Raises:
        ValueError: the address is no release on GitHub, or its tag is not the version's.
    """
    project = read_pyproject(root)["project"]
    address = project.get("urls", {}).get("Release")
    if address is None:
        return None
    found = ADDRESS.fullmatch(address)
    if not found:
        raise ValueError(
            f"pyproject.toml: Release = {address!r} must read "
            "https://github.com/OWNER/NAME/releases/tag/TAG"
        )
    if found[3] != f"v{project['version']}":
        raise ValueError(
            f"pyproject.toml: Release names the tag {found[3]}, and the version is "
            f"{project['version']}: tag it v{project['version']}"
        )
    return Release(*found.groups())


def tracked_files(root: Path) -> list[str]:
    """The files that git tracks, as far as they are there."""
    listing = subprocess.run(
        ["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    return [line for line in listing.splitlines() if (root / line).is_file()]
