"""A file is written whole or not at all."""

from __future__ import annotations

import os
import stat
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mi_helpers.files import save_tensors, write_whole


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


def test_tensors_are_written_whole_and_others_may_read_them(tmp_path):
    file = tmp_path / "x.safetensors"
    wide = torch.arange(6.0).view(2, 3).requires_grad_()
    save_tensors(file, {"x": wide.T}, step="3")
    assert torch.equal(load_file(file)["x"], wide.T) and list(tmp_path.iterdir()) == [file]
    with safe_open(file, "pt") as handle:
        assert handle.metadata() == {"step": "3"}
    if sys.platform != "win32":
        assert stat.S_IMODE(os.stat(file).st_mode) == 0o644
    before = file.read_bytes()
    with pytest.raises(RuntimeError, match="share memory"):
        save_tensors(file, {"x": wide, "y": wide})
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]
