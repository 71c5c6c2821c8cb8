"""Lists of planted mistakes name claims that exist and text that is there; planting changes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mutants
import pytest

ROOT = Path(__file__).resolve().parents[1]
LISTS = sorted(path.stem for path in (ROOT / "tests" / "mutants").glob("*.toml"))


def apart(name: str) -> Iterator[list[mutants.Mutant]]:
    """A notebook's mutants in groups that change other places, so that one build serves a group."""
    left = mutants.read_mutants(name)
    source = (ROOT / "notebooks" / "src" / f"{name}.py").read_text(encoding="utf-8")
    while left:
        changed, group, later = source, [], []
        for mutant in left:
            new = changed.replace(mutant.old, mutant.new) if mutant.old else changed
            alone = not mutant.old or changed.count(mutant.old) == 1
            if alone and all(other.new in new for other in group):
                changed, group = new, [*group, mutant]
            else:
                later.append(mutant)
        yield group
        left = later


@pytest.mark.parametrize("name", LISTS)
def test_every_mutant_can_be_planted(name: str, tmp_path: Path) -> None:
    tried = []
    for group in apart(name):
        code = "\n".join(cell.source for cell in mutants.planted(group, tmp_path).cells)
        for mutant in group:
            assert (mutant.patch or mutant.new) in code or mutant.old not in code, mutant.about
        tried += group
    assert sorted(m.about for m in tried) == sorted(m.about for m in mutants.read_mutants(name))


def root_with(tmp_path: Path, text: str) -> Path:
    """A repository of one notebook, "x = 1", with one claim and the given list."""
    for folder in ("tests/mutants", "notebooks/src", "data/claims"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "notebooks/src/98_one.py").write_text("x = 1\n")
    (tmp_path / "data/claims/98_one.toml").write_text(
        '[[claim]]\nid = "one.one"\nstatement = "One."\nunit = "share"\ncontrol = "none"\n'
    )
    (tmp_path / "tests/mutants/98_one.toml").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('about = "a"\nold = "y"\nfails = ["one.one"]', "old occurs 0 times"),
        ('about = "a"\nold = "x"\nfails = ["two"]', "names no claim"),
        ('about = "a"\nfails = ["one.one"]', "needs either old and new, or patch"),
        ('about = "a"\nold = "x"\npatch = "y"\nfails = ["error"]', "needs either"),
        ('about = "a"\nold = "x"\nfails = []', "needs about and fails"),
        ('about = "a"\nodl = "x"\nfails = ["error"]', "needs about and fails"),
    ],
)
def test_a_list_that_cannot_be_planted_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        mutants.read_mutants("98_one", root_with(tmp_path, f"[[mutant]]\n{text}\n"))


def test_a_right_list_is_read(tmp_path: Path) -> None:
    text = '[[mutant]]\nabout = "a"\nold = "x = 1"\nnew = "x = 2"\nfails = ["one.one"]\n'
    (mutant,) = mutants.read_mutants("98_one", root_with(tmp_path, text))
    assert (mutant.notebook, mutant.fails, mutant.new) == ("98_one", ("one.one",), "x = 2")
