"""At GPT-2 small's size: the same numbers as plain forward passes, and the published graph."""

from __future__ import annotations

import pytest
import torch

from mi_helpers import patching
from mi_helpers.patching import LogitDiff, OtherRun, Where

IOI = "When John and Mary went to the shops, {} gave the bag to"


@pytest.mark.slow
def test_sweeps_at_gpt2_size_equal_plain_passes(gpt2_shaped):
    model = gpt2_shaped
    base = model.to_tokens([IOI.format("John"), IOI.format("Mary")])
    source = base.flip(0)
    answers = torch.stack([base[:, 4], base[:, 2]], dim=1)
    answers[1] = answers[1].flip(0)
    metric = LogitDiff(answers)
    with torch.no_grad():
        _, cache = model.run_with_cache(source)
    cells = {
        "resid_pre": ("blocks.{}.hook_resid_pre", [(0, 10, 0), (5, 14, 0), (11, 14, 0)]),
        "z": ("blocks.{}.attn.hook_z", [(0, 11, 3), (7, 14, 9), (11, 14, 10)]),
        "v": ("blocks.{}.attn.hook_v", [(5, 10, 5), (11, 14, 1)]),
    }
    for site, (name, places) in cells.items():
        for layer, position, head in places:
            per_head = patching.SITES[site].per_head
            index = (slice(None), position, head) if per_head else (slice(None), position)
            where = Where([layer], [position], [head] if per_head else None)
            swept = patching.patch_sweep(
                model, base, OtherRun(source), metric, site=site, where=where
            )

            clean = cache[name.format(layer)]

            def put(act, hook, index=index, value=clean):
                act[index] = value[index]

            with torch.no_grad():
                plain = metric(model.run_with_hooks(base, fwd_hooks=[(name.format(layer), put)]))
            assert (plain - swept.base).abs().max() > 1e-5, "the patch does something"
            torch.testing.assert_close(swept.values[0, 0], plain, rtol=0, atol=1e-5)
