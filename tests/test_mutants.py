"""Lists of planted mistakes name claims that exist and text that is there; planting changes it."""

from __future__ import annotations

from pathlib import Path

import mutants
import pytest

ROOT = Path(__file__).resolve().parents[1]
LISTS = sorted(path.stem for path in (ROOT / "tests" / "mutants").glob("*.toml"))


@pytest.mark.parametrize("name", LISTS)
def test_every_mutant_can_be_planted(name: str, tmp_path: Path) -> None:
    for mutant in mutants.read_mutants(name):
        code = "\n".join(cell.source for cell in mutants.planted(mutant, tmp_path).cells)
        assert (mutant.patch or mutant.new) in code or mutant.old not in code, mutant.about


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
