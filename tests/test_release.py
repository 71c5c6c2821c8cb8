"""The one setting that says where a release is."""

from __future__ import annotations

from pathlib import Path

import pytest
from release import read_release

GOOD = "https://github.com/some-one/note.books/releases/tag/v1.2.0"


def checkout(folder: Path, line: str, version: str = "1.2.0") -> Path:
    """A folder with a pyproject.toml."""
    text = f'[project]\nname = "x"\nversion = "{version}"\n[project.urls]\n{line}\n'
    (folder / "pyproject.toml").write_text(text)
    return folder


def test_no_release_is_none(tmp_path: Path) -> None:
    assert read_release(checkout(tmp_path, f'# Release = "{GOOD}"')) is None


def test_the_address_holds_owner_repository_and_tag(tmp_path: Path) -> None:
    release = read_release(checkout(tmp_path, f'Release = "{GOOD}"'))
    assert release is not None
    assert (release.owner, release.name, release.tag) == ("some-one", "note.books", "v1.2.0")
    assert release.requirement("x") == "x @ git+https://github.com/some-one/note.books@v1.2.0"
    newest = release.requirement("x", newest=True)
    assert newest == "x @ git+https://github.com/some-one/note.books"
    assert release.file("a/b.md").endswith("github.com/some-one/note.books/blob/v1.2.0/a/b.md")
    assert release.colab("n/a.ipynb").endswith("/github/some-one/note.books/blob/v1.2.0/n/a.ipynb")


@pytest.mark.parametrize(
    "address", ["https://github.com/some/where", "https://example.org/a/b/releases/tag/v1", ""]
)
def test_another_address_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ValueError, match="must read https://github.com/OWNER/NAME"):
        read_release(checkout(tmp_path, f'Release = "{address}"'))


def test_a_tag_of_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the tag v1\.2\.0.*version is 1\.3\.0.*v1\.3\.0"):
        read_release(checkout(tmp_path, f'Release = "{GOOD}"', version="1.3.0"))
