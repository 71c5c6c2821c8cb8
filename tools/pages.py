"""Make a page of an executed notebook that needs no network and no kernel.

`to_html` is used by the gallery, the site, the tests and tools/shoot.py. What nbconvert does
otherwise and a hand-out needs: formulas are painted, as MathML made here; hints and solutions stay
closed, with their content inside; links lead somewhere, or are no links. Where many pages lie in
one folder, `share_scripts` keeps one copy of what each of them would carry.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets import Any as AnyTrait

from mi_helpers.figures.rendering import make_static

Resolve = Callable[[str], "str | None"]

# A code cell that notebooks show folded is folded here too; `top` and `bottom` are links.
TEMPLATE = """{%- extends 'lab/index.html.j2' -%}
{% block html_head_css %}{{ super() }}{{ resources.mi_head }}{% endblock html_head_css %}
{% block body_header %}{{ super() }}{{ resources.mi_top }}{% endblock body_header %}
{% block body_footer %}{{ resources.mi_bottom }}{{ super() }}{% endblock body_footer %}
{% block input_group -%}
{%- if cell.metadata.get('jupyter', {}).get('source_hidden') -%}
<details class="mi-folded"><summary>Solution</summary>
{{ super() }}
</details>
{%- else -%}{{ super() }}{%- endif -%}
{%- endblock input_group %}
"""
STYLE = """<style>
nav.mi-pages{display:flex;flex-wrap:wrap;gap:.5rem 2rem;justify-content:space-between;
max-width:70rem;margin:1rem auto;padding:0 1rem;font:15px/1.5 system-ui,sans-serif}
details>summary{cursor:pointer}details.mi-folded{margin-left:64px}
math[display=block]{margin:.6rem 0;overflow-x:auto}
@media print{nav.mi-pages{display:none}}
</style>
"""
LARGE = 10_000  # characters from which a style sheet is shared
PLOTLY_SCRIPT = "/**\n* plotly.js"
# How a view of attention brings CircuitsVis along, when no other on its page has.
CIRCUITSVIS_SCRIPT = re.compile(
    r"if \(!page\.miCircuitsVis\) page\.miCircuitsVis = "
    r"(\(function \(\) \{\n.*?\nreturn CircuitsVis; \}\)\(\);)",
    re.S,
)


def mathml(tex: str, display: str = "inline") -> str:
    """A formula as MathML, which browsers paint without script or font.

    Raises:
        ValueError: the formula holds a command that is not known; the message shows both.
    """
    made = convert(tex.strip(), display=display)
    if unknown := re.findall(r"\\[A-Za-z]+", made):
        raise ValueError(f"unknown command {unknown[0]} in the formula {tex!r}")
    return made


def unlinked(text: str, url: str) -> str:
    """A link's text where the page cannot lead to it; the address shows under the mouse."""
    return f'<span title="{html.escape(url)}">{text}</span>'


class PageRenderer(IPythonRenderer):
    """nbconvert's renderer of Markdown, with formulas as MathML and links resolved."""

    resolve: Resolve = staticmethod(lambda url: url)

    def block_math(self, body: str) -> str:
        """A displayed formula."""
        return mathml(body, "block")

    def inline_math(self, body: str) -> str:
        """A formula in a line."""
        return mathml(body)

    def latex_environment(self, name: str, body: str) -> str:
        """A LaTeX environment."""
        return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

    def block_html(self, html: str) -> str:
        """HTML as it stands: parsed piece by piece, an open <details> would be closed at once."""
        return html

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link that leads somewhere, or its text alone."""
        target = self.resolve(url)
        return unlinked(text, url) if target is None else super().link(text, target, title)


class PageExporter(HTMLExporter):
    """nbconvert's exporter of HTML with the template and the renderer of these pages."""

    resolve = AnyTrait(lambda url: url)

    def default_filters(self) -> Iterator[tuple[str, Any]]:
        """The filters, `clean_html` aside: it is for highlighted code, which is clean, and slow."""
        yield from super().default_filters()
        yield "clean_html", lambda element: element

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """Markdown to HTML: the filter that the template calls."""
        folder = context.get("resources", {}).get("metadata", {}).get("path", "")
        return self.render(source, folder, context.get("cell", {}).get("attachments", {}))

    def render(self, source: str, folder: str = "", attachments: Any = None) -> str:
        """Markdown to HTML, with images embedded that lie below `folder`."""
        renderer = PageRenderer(
            escape=False, attachments=attachments, embed_images=True, path=folder,
            exclude_anchor_links=self.exclude_anchor_links, anchor_link_text=self.anchor_link_text,
        )  # fmt: skip
        renderer.resolve = self.resolve
        return MarkdownWithMath(renderer=renderer).render(source)


def navigation(entries: Sequence[tuple[str, str, str]]) -> str:
    """Links to other pages: what each is, its address, its title."""
    links = "".join(
        f'<span>{what} <a href="{html.escape(url)}">{html.escape(title)}</a></span>'
        for what, url, title in entries
    )
    return f'<nav class="mi-pages">{links}</nav>'


def resolve_html(text: str, resolve: Resolve) -> str:
    """HTML whose relative links are resolved."""

    def resolved(match: re.Match[str]) -> str:
        target = resolve(html.unescape(match[1]))
        return f'<a title="{match[1]}"' if target is None else f'<a href="{html.escape(target)}"'

    return re.sub(r'<a href="([^":#]+(?:#[^"]*)?)"', resolved, text)


def resolve_outputs(notebook: Any, resolve: Resolve) -> None:
    """Resolve the relative links in the HTML of outputs, in place."""
    for cell in notebook.cells:
        for data in (output.get("data", {}) for output in cell.get("outputs", [])):
            if "text/html" in data:
                data["text/html"] = resolve_html(data["text/html"], resolve)


def markdown_html(text: str, resolve: Resolve = lambda url: url, folder: Path | None = None) -> str:
    """Markdown to HTML as on the pages of notebooks, without a page around it.

    Args:
        text: the Markdown.
        resolve: as for `to_html`.
        folder: where images are looked up; they are embedded.
    """
    return PageExporter(resolve=resolve, embed_images=True).render(text, str(folder or ""))


def share_scripts(page: str, assets: Path) -> str:
    """A page whose plotly, CircuitsVis and large style sheets lie in `assets`, one copy for all.

    Args:
        page: what `to_html` made; the page is to be written to the folder above `assets`.
        assets: where they go.

    Returns:
        The page, which loads them by a relative address, from a folder on disk too.
    """
    scripts = []

    def keep(content: str, name: str) -> str:
        path = assets / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return f"{assets.name}/{name}"

    def large(match: re.Match[str]) -> str:
        tag, content = match[1], match[2]
        if tag == "script" and content.startswith(PLOTLY_SCRIPT):
            return f'<script src="{keep(content, "plotly.js")}"></script>'
        if tag == "script" or len(content) < LARGE:
            return match[0]
        name = f"{hashlib.sha256(content.encode()).hexdigest()[:12]}.css"
        return f'<link rel="stylesheet" href="{keep(content, name)}">'

    def circuitsvis(match: re.Match[str]) -> str:
        scripts.append(keep(f"window.miCircuitsVis = {match[1]}", "circuitsvis.js"))
        return ""

    page = CIRCUITSVIS_SCRIPT.sub(circuitsvis, page)
    page = re.sub(r"<(script|style)[^>]*>(.*?)</\1>", large, page, flags=re.S)
    tags = "".join(f'<script src="{name}"></script>\n' for name in dict.fromkeys(scripts))
    return page.replace("</head>", f"{tags}</head>", 1)


def title(notebook: Any) -> str:
    """The first heading of a notebook; empty if it has none."""
    texts = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = re.search(r"^#\s+(.+)", next(texts, ""), re.M)
    return found[1] if found else ""


def to_html(
    notebook: Any,
    resolve: Resolve = lambda url: url,
    nav: str = "",
    folder: Path | None = None,
    *,
    head: str = "",
    header: str = "",
) -> str:
    """Convert an executed notebook to one page.

    Args:
        notebook: as nbformat reads it; its outputs are changed in place.
        resolve: from a link's address in Markdown to the page's, None for no link at all.
        nav: HTML shown above and below.
        folder: where images in Markdown are looked up.
        head: HTML for the page's head, after its style sheets.
        header: HTML shown above all else.
    """
    exporter = PageExporter(
        mathjax_url="", require_js_url="", jquery_url="", embed_images=True, resolve=resolve,
        extra_loaders=[DictLoader({"mi_page.html.j2": TEMPLATE})], template_file="mi_page.html.j2",
    )  # fmt: skip
    about = {"path": str(folder or ""), "name": title(notebook)}
    resources = {
        "mi_head": head, "mi_top": STYLE + header + nav, "mi_bottom": nav, "metadata": about
    }  # fmt: skip
    resolve_outputs(notebook, resolve)
    return str(exporter.from_notebook_node(make_static(notebook), resources)[0])
