"""One switch of budgets by the model's size."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from mi_helpers.models import by_size


def sized(n: int, layers: int) -> SimpleNamespace:
    parameters = [torch.empty(n, device="meta")]
    return SimpleNamespace(parameters=lambda: parameters, cfg=SimpleNamespace(n_layers=layers))


def test_size_is_counted_in_parameters_and_not_in_layers(tiny_model, pocket):
    assert by_size(tiny_model, "many", "few") == by_size(pocket, "many", "few") == "many"
    assert by_size(sized(124_000_000, 12), 32, 6) == by_size(sized(70_000_000, 6), 32, 6) == 6
    assert by_size(sized(1_000_000, 48), 32, 6) == 32
