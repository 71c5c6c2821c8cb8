"""Attribution graphs: tokens along x, layers upwards, an edge for what one node adds to another.

The picture is plain SVG, which needs no script; a small script inside it, which fetches nothing,
answers clicks and keys.

It is written by hand and not by a graph library: a node's token and layer already say where it
stands, so there is nothing to lay out; plain SVG stays in a saved notebook, without a network.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mi_helpers.figures.html import Html, small_line
from mi_helpers.figures.node_layout import FOOT, LEFT, node_layout
from mi_helpers.figures.style import (
    CARD,
    FONT,
    GRID,
    INK,
    LINE,
    MUTED,
    NEGATIVE,
    PALETTE,
    POSITIVE,
    tick,
    to_array,
    visible,
)

if TYPE_CHECKING:
    from mi_helpers.figures.style import Values
    from mi_helpers.sae.attribution_graph import AttributionGraph, Node

Context = tuple[Sequence[str], "Values"]
"""A piece of text as tokens, and how active a feature is on each."""


def attribution(
    graph: AttributionGraph,
    *,
    title: str,
    groups: Mapping[Node, str] | None = None,
    contexts: Mapping[tuple[int, int], Sequence[Context]] | None = None,
    strongest: int = 250,
    subtitle: str | None = None,
) -> Html:
    """Draw an attribution graph that answers clicks: a node's inputs and outputs, and its contexts.

    Circles are features, squares tokens, diamonds errors, framed words logits. Blue edges add to
    their target, red, dashed ones take away, wider for a larger effect. Tab moves from node to
    node, Enter chooses one, Escape lets go.

    Args:
        graph: the graph, best a pruned one.
        title: the finding.
        groups: `groups[node]` names the supernode a node belongs to, which colours it.
        contexts: `contexts[layer, unit]` are texts on which a feature is most active, shown when
            it is chosen.
        strongest: of the edges, how many of the largest are drawn; all are listed.
        subtitle: a small line under the title, usually the model's name.

    Returns:
        The HTML, with everything it needs inside.

    Raises:
        ValueError: for an empty title, NaN/inf, or a group of a node that the graph does not have.
    """
    nodes, groups = list(graph.nodes), groups or {}
    weights = _checked(graph, title, groups)
    edges = [
        (int(s), int(t), float(weights[t, s])) for t, s in zip(*weights.nonzero(), strict=True)
    ]
    edges.sort(key=lambda edge: -abs(edge[2]))
    tokens = [str(token) for token in graph.tokens]
    words = iter(graph.predicted)
    names = [
        f"logit {visible(next(words))}" if node.kind == "logit" else _name(node, tokens)
        for node in nodes
    ]
    colours = _colours([groups[node] for node in nodes if node in groups])
    drawn = edges[:strongest]
    said = _data(nodes, names, edges, groups, contexts or {})
    svg, width = _svg(nodes, names, drawn, tokens, groups, colours)
    key = "mi-ag-" + hashlib.sha256((said + svg).encode()).hexdigest()[:12]
    left_out = f"; the strongest {len(drawn)} are drawn" if len(drawn) < len(edges) else ""
    return Html(
        _VIEW.format(
            key=key, card=CARD, ink=INK, grid=GRID, muted=MUTED, font=html.escape(FONT),
            title=html.escape(title), small=small_line(subtitle), svg=svg,
            basis=min(round(width), 900),
            legend=_legend(colours), data=said, positive=POSITIVE, negative=NEGATIVE,
            count=f"{len(nodes)} nodes, {len(edges)} edges{left_out}",
        )
    )  # fmt: skip


def _checked(graph: AttributionGraph, title: str, groups: Mapping[Node, str]) -> Any:
    """The weights as an array; ValueError for what cannot be drawn."""
    if not title.strip():
        raise ValueError("title is empty; a figure's title states its finding")
    weights, there = to_array(graph.weights, "weights", 2), set(graph.nodes)
    if unknown := [node for node in groups if node not in there]:
        raise ValueError(f"groups name {len(unknown)} nodes that are not in it, as {unknown[0]}")
    return weights


def _data(
    nodes: Sequence[Node],
    names: Sequence[str],
    edges: Sequence[tuple[int, int, float]],
    groups: Mapping[Node, str],
    contexts: Mapping[tuple[int, int], Sequence[Context]],
) -> str:
    """What the script lists of each node, as JSON that cannot end a script element."""
    features = {i: (n.layer, n.unit) for i, n in enumerate(nodes) if n.kind == "feature"}
    data = {
        "names": names,
        "notes": [_note(node, groups.get(node)) for node in nodes],
        "edges": [[s, t, float(f"{w:.4g}")] for s, t, w in edges],
        "contexts": {
            i: [_context(context) for context in contexts[place]]
            for i, place in features.items()
            if place in contexts
        },
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _name(node: Node, tokens: Sequence[str]) -> str:
    """What a node is called in lists: kind and place, and where it stands in the text."""
    where = visible(tokens[node.position])
    if node.kind == "token":
        return f"token {where} ({node.position})"
    if node.kind == "error":
        return f"L{node.layer} error at {where} ({node.position})"
    return f"L{node.layer} feature {node.unit} at {where} ({node.position})"


def _note(node: Node, group: str | None) -> str:
    value = f"value {float(node.value):.3g}"
    return f"{group}; {value}" if group else value


def _context(context: Context) -> list[Any]:
    """Tokens as they are shown, and how strong each is as a share of the strongest."""
    tokens, values = context
    shares = to_array(values, "contexts", 1)
    if len(shares) != len(tokens):
        raise ValueError(f"a context has {len(tokens)} tokens and {len(shares)} values")
    top = float(shares.max())
    return [
        [visible(token) for token in tokens],
        [round(max(float(share) / top, 0.0), 2) if top > 0 else 0.0 for share in shares],
    ]


def _colours(groups: Sequence[str]) -> dict[str, str]:
    """A colour for each supernode; more than the palette has share the last one."""
    palette = [PALETTE[i] for i in (2, 4, 3, 1, 5)]
    names = list(dict.fromkeys(groups))
    return {name: palette[min(i, len(palette) - 1)] for i, name in enumerate(names)}


def _svg(
    nodes: Sequence[Node],
    names: Sequence[str],
    edges: Sequence[tuple[int, int, float]],
    tokens: Sequence[str],
    groups: Mapping[Node, str],
    colours: Mapping[str, str],
) -> tuple[str, float]:
    """The picture, and its width in pixels."""
    at = node_layout(nodes, len(tokens))
    width, height = at.width, at.height
    parts, sides = [], []
    for row, y in enumerate(at.base):
        said = "tokens" if row == 0 else f"layer {row - 1}"
        said = "logits" if row == len(at.base) - 1 else said
        parts.append(f'<line x1="0" x2="{width:.0f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        sides.append(f'<text x="2" y="{y - 12:.1f}" font-size="11" fill="{MUTED}">{said}</text>')
    for x, token in zip(at.middle, tokens, strict=True):
        y = height - FOOT + 12
        parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" fill="{INK}" text-anchor="end" '
            f'transform="rotate(-38 {x:.1f} {y:.1f})">{tick(token, 12)}</text>'
        )
    parts += _curves(edges, names, at.where)
    for i, node in enumerate(nodes):
        fill = colours[groups[node]] if node in groups else None
        parts.append(_mark(i, node, names[i], _note(node, groups.get(node)), at.where[i], fill))
    side = f'<rect width="{LEFT - 10}" height="{height - FOOT:.0f}" fill="{CARD}"/>'
    parts.append(f'<g class="rows">{side}{"".join(sides)}</g>')
    svg = (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'style="display:block" role="group" '
        f'aria-label="attribution graph of {len(nodes)} nodes">{"".join(parts)}</svg>'
    )
    return svg, width


def _curves(
    edges: Sequence[tuple[int, int, float]],
    names: Sequence[str],
    where: Mapping[int, tuple[float, float]],
) -> list[str]:
    """A curve for each edge, the strongest on top."""
    parts = []
    largest = max((abs(w) for _, _, w in edges), default=1.0)
    for s, t, w in reversed(edges):
        (x1, y1), (x2, y2) = where[s], where[t]
        bend, share = 0.45 * (y1 - y2), abs(w) / largest
        middle = f"C{x1:.1f} {y1 - bend:.1f} {x2:.1f} {y2 + bend:.1f}"
        curve = f"M{x1:.1f} {y1:.1f}{middle} {x2:.1f} {y2:.1f}"
        said = html.escape(f"{names[s]} \u2192 {names[t]}: {w:+.3g}")
        look = POSITIVE + '"' if w > 0 else NEGATIVE + '" stroke-dasharray="7 3"'
        parts.append(
            f'<path class="e" data-s="{s}" data-t="{t}" d="{curve}" fill="none" '
            f'stroke="{look} stroke-width="{0.6 + 4 * share:.2f}" '
            f'stroke-opacity="{0.12 + 0.6 * share**0.5:.2f}"><title>{said}</title></path>'
        )
    return parts


def _mark(
    i: int, node: Node, name: str, note: str, at: tuple[float, float], fill: str | None
) -> str:
    x, y = at
    edge = f'stroke="{INK}" stroke-width="1"'
    if node.kind == "token":
        shape = (
            f'<rect x="{x - 6}" y="{y - 6}" width="12" height="12" fill="{fill or LINE}" {edge}/>'
        )
    elif node.kind == "error":
        points = f"{x},{y - 7} {x + 7},{y} {x},{y + 7} {x - 7},{y}"
        shape = f'<polygon points="{points}" fill="{fill or CARD}" {edge} stroke-dasharray="2 1"/>'
    elif node.kind == "logit":
        word = tick(name.removeprefix("logit "), 9)
        shape = (
            f'<rect x="{x - 33}" y="{y - 9}" width="66" height="18" rx="4" '
            f'fill="{fill or CARD}" {edge}/><text x="{x}" y="{y + 4}" font-size="11" '
            f'fill="{INK}" text-anchor="middle">{word}</text>'
        )
    else:
        shape = f'<circle cx="{x}" cy="{y}" r="6.5" fill="{fill or "#dfe3e8"}" {edge}/>'
    said = html.escape(f"{name}: {note}")
    return (
        f'<g class="n" data-i="{i}" tabindex="0" role="button" aria-label="{said}">'
        f"<title>{said}</title>{shape}</g>"
    )


def _legend(colours: Mapping[str, str]) -> str:
    marks = "\u25cb feature \u00a0 \u25a0 token \u00a0 \u25c7 error"
    dots = "".join(
        f'<span style="white-space:nowrap;margin-left:14px"><span style="color:{colour}">\u25cf'
        f"</span> {html.escape(name)}</span> "
        for name, colour in colours.items()
    )
    signs = (
        f'<span style="white-space:nowrap;margin-left:14px"><span style="color:{POSITIVE}">\u2501'
        f'</span> adds</span> <span style="white-space:nowrap;margin-left:10px">'
        f'<span style="color:{NEGATIVE}">\u2505</span> takes away</span>'
    )
    return f'<span style="white-space:nowrap">{marks}</span>{signs}{dots}'


_VIEW = """<figure class="{key}" style="margin:8px 0;padding:10px 16px;background:{card};\
color:{ink};border:1px solid {grid};border-radius:6px;font-family:{font};font-size:13px">\
<style>
.{key} .n {{ cursor: pointer; outline: none; }}
.{key} .n:focus-visible > :nth-child(2) {{ stroke: #d55e00; stroke-width: 3; }}
.{key}.chosen .e {{ stroke-opacity: 0.03; }}
.{key}.chosen .e.lit {{ stroke-opacity: 0.9; }}
.{key}.chosen .n {{ opacity: 0.25; }}
.{key}.chosen .n.lit {{ opacity: 1; }}
.{key} .n.self > :nth-child(2) {{ stroke: {ink}; stroke-width: 3; }}
.{key} button {{ font: inherit; font-size: 12px; color: inherit; background: none; border: 0;
padding: 2px 0; text-align: left; cursor: pointer; display: flex; width: 100%; gap: 8px; }}
.{key} button:hover, .{key} button:focus-visible {{ text-decoration: underline; }}
.{key} h5 {{ font: 600 12px {font}; margin: 10px 0 2px; color: {muted}; }}
</style><figcaption style="font-size:16px;text-align:left;padding-bottom:4px">{title}{small}\
</figcaption><div style="font-size:12px;color:{muted};margin-bottom:4px">{legend}</div>
<div style="display:flex;flex-wrap:wrap;gap:4px 20px;align-items:flex-start">
<div style="flex:3 1 {basis}px;min-width:0;overflow-x:auto">{svg}</div>
<div class="panel" aria-live="polite" style="flex:1 1 240px;min-width:0;max-height:560px;\
overflow-y:auto;overflow-wrap:anywhere"><p style="font-size:12px;color:{muted};\
margin:2px 0">{count}. Hover over a mark for its name.</p></div></div></figure>
<script>(function () {{
const data = {data};
let tries = 0;
function element(name, text, look) {{
  const made = document.createElement(name);
  made.textContent = text || "";
  if (look) made.style.cssText = look;
  return made;
}}
function start(root) {{
  root.dataset.live = "yes";
  const panel = root.querySelector(".panel"), first = panel.innerHTML;
  const marks = [...root.querySelectorAll(".n")], lines = [...root.querySelectorAll(".e")];
  function clear() {{
    root.classList.remove("chosen");
    for (const one of [...marks, ...lines]) one.classList.remove("lit", "self");
    panel.innerHTML = first;
    panel.append(element("p", "Click a mark, or choose it with Tab and Enter: its inputs, its " +
      "outputs and what it is active on. Escape lets go.", "font-size:12px;margin:2px 0"));
  }}
  function list(said, edges, end) {{
    panel.append(element("h5", edges.length ? said : said + ": none"));
    for (const edge of edges.slice(0, 14)) {{
      const row = element("button");
      row.append(element("span", (edge[2] > 0 ? "+" : "\\u2212") + Math.abs(edge[2]).toPrecision(3),
        "min-width:4.2em;text-align:right;color:" + (edge[2] > 0 ? "{positive}" : "{negative}")));
      row.append(element("span", data.names[edge[end]]));
      row.onclick = function () {{ choose(edge[end]); }};
      panel.append(row);
    }}
    if (edges.length > 14) panel.append(element("div", "and " + (edges.length - 14) + " more"));
  }}
  function choose(i) {{
    clear();
    panel.textContent = "";
    root.classList.add("chosen");
    const inputs = data.edges.filter(function (e) {{ return e[1] === i; }});
    const outputs = data.edges.filter(function (e) {{ return e[0] === i; }});
    const near = new Set([i, ...inputs.map((e) => e[0]), ...outputs.map((e) => e[1])]);
    for (const mark of marks) {{
      mark.classList.toggle("lit", near.has(+mark.dataset.i));
      mark.classList.toggle("self", +mark.dataset.i === i);
    }}
    for (const line of lines)
      line.classList.toggle("lit", +line.dataset.s === i || +line.dataset.t === i);
    panel.append(element("strong", data.names[i]));
    panel.append(element("div", data.notes[i], "font-size:12px"));
    list("inputs", inputs, 0);
    list("outputs", outputs, 1);
    const texts = data.contexts[i] || [];
    if (texts.length) panel.append(element("h5", "most active on"));
    for (const [words, shares] of texts) {{
      const row = element("div", "", "font-size:12px;line-height:1.7");
      words.forEach(function (word, k) {{
        row.append(element("span", word, "background:rgba(33,102,172," + 0.55 * shares[k] + ")"));
      }});
      panel.append(row);
    }}
  }}
  for (const mark of marks) {{
    mark.addEventListener("click", function (event) {{
      event.stopPropagation();
      choose(+mark.dataset.i);
    }});
    mark.addEventListener("keydown", function (event) {{
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault(), event.stopPropagation();
      choose(+mark.dataset.i);
    }});
  }}
  root.querySelector("svg").addEventListener("click", clear);
  root.addEventListener("keydown", function (event) {{
    if (event.key === "Escape") clear();
  }});
  clear();
  const frame = root.querySelector("svg").parentNode;
  frame.onscroll = function () {{
    root.querySelector(".rows").setAttribute("transform", "translate(" + frame.scrollLeft + ")");
  }};
  frame.scrollLeft = frame.scrollWidth;  // where the answer is
}}
(function wait() {{
  const roots = document.querySelectorAll(".{key}:not([data-live])");
  if (!roots.length && tries++ < 50) return setTimeout(wait, 100);
  roots.forEach(start);
}})();
}})();</script>"""
