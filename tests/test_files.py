"""A file is written whole or not at all."""

from __future__ import annotations

import pytest

from mi_helpers.files import write_whole


def test_a_file_is_replaced_as_a_whole(tmp_path):
    file = tmp_path / "x.json"
    file.write_text("old")
    with write_whole(file) as part:
        part.write_text("new")
        assert file.read_text() == "old", "nobody sees it before the end"
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_write_leaves_what_was_there(tmp_path, error):
    file = tmp_path / "x.json"
    file.write_text("old")
    with pytest.raises(error), write_whole(file) as part:
        part.write_text("ne")
        raise error
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), write_whole(tmp_path / "x.json"):
        pass
    with pytest.raises(FileNotFoundError), write_whole(tmp_path / "no" / "x.json") as part:
        part.write_text("new")
