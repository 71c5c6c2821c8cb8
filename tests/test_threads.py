"""PyTorch's threads: chosen by size and measurement, and left alone where the user has chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mi_helpers.models import threads


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch):
    """As many threads afterwards as before, and no choice of the user's."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield
    torch.set_num_threads(before)


def test_a_small_model_gets_one_thread_and_a_large_one_what_was_measured(monkeypatch) -> None:
    monkeypatch.setattr(threads, "_measured", lambda: 3)
    torch.set_num_threads(2)
    assert threads.use_threads(threads.SMALL) == torch.get_num_threads() == 1
    assert threads.use_threads(threads.SMALL + 1) == torch.get_num_threads() == 3


def test_the_users_choice_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(threads, "_measured", lambda: pytest.fail("measured all the same"))
    torch.set_num_threads(2)
    assert threads.use_threads(10) == threads.use_threads(10**9) == torch.get_num_threads() == 2


@pytest.mark.parametrize(("together", "chosen"), [(1.0, 1), (0.9, 1), (0.5, 4), (3.0, 1)])
def test_all_cores_are_taken_only_where_they_are_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, together: float, chosen: int
) -> None:
    """A clock on which all cores take `together` of the time that one takes."""
    now, wanted = [0.0], [1]

    def clock() -> float:
        now[0] += 1.0 if wanted[0] == 1 else together
        return now[0]

    monkeypatch.setattr(threads.torch, "set_num_threads", lambda n: wanted.__setitem__(0, n))
    monkeypatch.setattr(threads.time, "perf_counter", clock)
    monkeypatch.setattr(threads, "available_cores", lambda: 4)
    assert threads._measured() == chosen


def test_one_core_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 1)
    monkeypatch.setattr(threads.time, "perf_counter", lambda: pytest.fail("measured"))
    assert threads._measured() == 1


def test_one_thread_is_given_back_even_after_an_error() -> None:
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError), threads.one_thread():
        assert torch.get_num_threads() == 1
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("text", "cores"),
    [("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("max 100000", None)],
)
def test_the_quota_of_a_container_counts(tmp_path: Path, text: str, cores: int | None) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(text)
    assert threads._quota(file) == cores
    assert threads._quota(tmp_path / "none") is None
