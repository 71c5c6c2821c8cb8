"""Read places on many batches of tokens, by the fused pass where that gives what the model does.

`sites.read` asks the model itself. For training a dictionary a place is read a million times over:
the fused pass leaves out the hooks, and ends as soon as the place is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.engine.architecture import FusedModel
from mi_helpers.engine.setup import SAME_RUN, relative_error
from mi_helpers.sites import Place, place_of, read

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Readers = Callable[[Int[Tensor, "batch pos"]], list[Float[Tensor, "batch pos ..."]]]


def quick_readers(
    model: TransformerBridge, places: Sequence[Place | str], tokens: Int[Tensor, "batch pos"]
) -> Readers:
    """A function from tokens to the activations at some places, all of one pass.

    The fused pass is taken if on `tokens` it gives what `sites.read` gives; it does not, for
    example, while hooks of your own are attached. It holds a copy of the weights of the layers it
    runs, packed for the processor, for as long as the reader lives.

    Args:
        model: Any bridge.
        places: `("resid_post", 3)`, or full names of hooks.
        tokens: A few prompts to compare both ways on.

    Raises:
        ValueError: as `sites.read`.
    """

    def plain(tokens: Tensor) -> list[Tensor]:
        found = read(model, tokens, places)
        return [found[place] for place in places]

    wanted = [(place_of(p) or p) if isinstance(p, str) else p for p in places]
    want = plain(tokens)
    if not FusedModel.supports(model):
        return plain
    fused = FusedModel(model)
    known = {"resid_pre"}.union(*(step.writes for step in fused.steps))
    if not known.issuperset(place[0] for place in wanted):
        return plain

    @torch.no_grad()
    def quick(tokens: Tensor) -> list[Tensor]:
        found: dict[Place | str, Tensor] = {}
        for at, act in fused.walk(tokens.to(model.cfg.device)):
            if at in wanted:
                found[at] = act
                if len(found) == len(set(wanted)):
                    break
        return [found[place] for place in wanted]

    pairs = zip(quick(tokens), want, strict=True)
    same = all(relative_error(a.flatten(2), b.flatten(2)) <= SAME_RUN for a, b in pairs)
    return quick if same else plain
