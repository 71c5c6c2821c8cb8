"""Attention patterns with CircuitsVis, whose script is inlined once a page and never fetched."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from mi_helpers.figures.heatmaps import heatmap
from mi_helpers.figures.html import Html, small_line
from mi_helpers.figures.pages import needs_script
from mi_helpers.figures.style import CARD, FONT, INK, KEY, POSITIVE, QUERY, check_labels, to_array

if TYPE_CHECKING:
    from jaxtyping import Float

    from mi_helpers.figures.style import Values

_STYLE = """<style>.mi-attention h2, .mi-attention h3, .mi-attention h4 {{ color: {ink} !important;
font: 600 13px {font} !important; margin: 4px 0 !important; }}
.mi-attention h4 {{ font-size: 10px !important; }}
.mi-attention h2, .mi-attention h4 {{ color: white !important; }}
.mi-attention div[style*="aspect-ratio"] {{ max-width: 560px !important; }}</style>"""

_VIEW = """<figure style="margin:8px 0;padding:10px 16px;background-color:{card};color:{ink};\
overflow-x:auto;font-family:{font}">\
<figcaption style="font-size:16px;margin-bottom:6px;text-align:left">{title}{small}</figcaption>
{style}<div class="mi-attention {key}" style="max-width:800px;position:relative">\
<p style="font-size:13px">This view of {count} needs scripts. Run its cell, or trust the notebook.\
</p></div></figure>
<script>(function () {{
const page = window, waiting = page.miAttentionQueue = page.miAttentionQueue || [];
{script}
waiting.push(function (vis) {{
  let tries = 0;
  (function draw() {{
    const places = document.querySelectorAll(".{key}:not([data-drawn])");
    if (!places.length && tries++ < 50) return setTimeout(draw, 100);
    for (const place of places) {{
      page.miAttentionCount = (page.miAttentionCount || 0) + 1;
      place.dataset.drawn = "yes";
      place.textContent = "";
      place.id = "mi-attention-" + page.miAttentionCount;
      vis.render(place.id, vis.{element}, {props});
    }}
  }})();
}});
if (page.miCircuitsVis) while (waiting.length) waiting.shift()(page.miCircuitsVis);
}})();</script>"""

_LOAD = """if (!page.miCircuitsVis) page.miCircuitsVis = (function () {{
{bundle}
return CircuitsVis; }})();"""


class AttentionView(Html):
    """An interactive attention view. Jupyter draws it; `static()` is its twin without scripts."""

    def __init__(
        self,
        pattern: Float[np.ndarray, "head q k"],
        tokens: list[str],
        heads: list[str],
        title: str,
        subtitle: str | None = None,
    ) -> None:
        self.pattern, self.tokens, self.heads = pattern, tokens, heads
        self.title, self.subtitle = title, subtitle
        super().__init__(self.to_html(script=True))

    def to_html(self, *, script: bool) -> str:
        """Return the HTML, with CircuitsVis inside or relying on an earlier view of the page."""
        weights = np.round(self.pattern, 3).tolist()
        one = len(self.heads) == 1
        options: dict[str, Any] = dict(tokens=self.tokens, minValue=-1, maxValue=1)
        options |= dict(positiveColor=POSITIVE, attention=weights[0] if one else weights)
        options |= dict(zoomed=True) if one else dict(attentionHeadNames=self.heads)
        props = json.dumps(options, separators=(",", ":")).replace("<", "\\u003c")
        font = html.escape(FONT)
        return _VIEW.format(
            card=CARD, ink=INK, font=font, style=_STYLE.format(ink=INK, font=FONT),
            title=html.escape(self.title), small=small_line(self.subtitle), props=props,
            key="mi-" + hashlib.sha256(props.encode()).hexdigest()[:12],
            element="AttentionPattern" if one else "AttentionHeads",
            count=f"{len(self.heads)} heads, {len(self.tokens)} tokens",
            script=_LOAD.format(bundle=_bundle()) if script else "",
        )  # fmt: skip

    def static(self, heads: Sequence[str] | None = None) -> go.Figure:
        """Return a plotly heatmap of some heads.

        Args:
            heads: their names; by default the view's first four.

        Raises:
            KeyError: for a name that the view does not have.
        """
        chosen = list(heads or self.heads[:4])
        if unknown := [name for name in chosen if name not in self.heads]:
            raise KeyError(f"no such heads in this view: {unknown}; it has {self.heads}")
        return heatmap(
            self.pattern[[self.heads.index(name) for name in chosen]],
            facets=chosen,
            title=self.title,
            subtitle=self.subtitle,
            x=self.tokens,
            y=self.tokens,
            xlabel=KEY,
            ylabel=QUERY,
            colorbar="attention",
            center=None,
            limit=1.0,
        )

    def _repr_html_(self) -> str:
        return self.to_html(script=needs_script("circuitsvis"))


def attention(
    pattern: Values,
    str_tokens: Sequence[str],
    heads: Sequence[str] | None = None,
    *,
    title: str = "Attention patterns",
    subtitle: str | None = None,
) -> AttentionView:
    """Show attention patterns: hover over or click a small one to see it large, with the weights.

    Args:
        pattern: `[head, query, key]` or `[query, key]`, after the softmax.
        str_tokens: the tokens, for both axes.
        heads: names of the heads, all different.
        title: the finding.
        subtitle: a small line under the title, usually the model's name.

    Returns:
        The view. Its `static()` is a plotly heatmap for places that run no scripts.

    Raises:
        ValueError: for a pattern that is not square, does not fit the tokens, or holds values
            outside [0, 1] (scores before the softmax).
    """
    array = to_array(pattern, "pattern")
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[1] != array.shape[2]:
        raise ValueError(
            f"pattern must be [head, query, key] of one prompt, not shape {array.shape}"
        )
    if array.min() < -1e-4 or array.max() > 1 + 1e-3:
        raise ValueError(
            f"pattern holds values from {array.min():.3g} to {array.max():.3g}, outside [0, 1]; "
            "pass the pattern after the softmax (hook_pattern), not the scores"
        )
    tokens = check_labels(str_tokens, array.shape[1], "str_tokens") or []
    names = check_labels(heads, len(array), "heads") or [f"head {i}" for i in range(len(array))]
    if len(set(names)) < len(names):
        raise ValueError(f"heads must be distinct names: {names}")
    return AttentionView(array, tokens, names, title, subtitle)


def _bundle() -> str:
    """Return CircuitsVis's own browser bundle, made safe to stand inside a script element.

    Its axes are renamed to what every other figure calls them.
    """
    source = files("circuitsvis").joinpath("dist/cdn/iife.js").read_text(encoding="utf-8")
    source = source.replace("Source Token", KEY).replace("Destination Token", QUERY)
    return source.replace("</script", "<\\/script").split("//# sourceMappingURL")[0]
