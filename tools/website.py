"""Write build/site: the executed notebooks and all that belongs to them, as a site.

    python tools/website.py [--gallery build/gallery] [--out build/site]

The site works on a web server and as a folder opened from disk, without a network: start page (the
README), every notebook of the gallery with its solutions folded, claims by model, glossary,
literature, the helpers' reference, workshop plans, and a search over all of it. Scripts that many
pages need lie once in assets/. A link leads to a page, to a file copied beside it or to the release
that pyproject.toml names; where there is none of these it is left as text.

`make run` executes the notebooks; what it leaves in build/gallery is all that is read of them.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
from api_pages import about, inline, public_names, room_html, rooms
from claims_page import cards, page_body
from gallery import GALLERY, ROOT, Links
from nbconvert.exporters.templateexporter import TemplateExporter
from notes_page import page_body as notes_body
from notes_page import sections as notes_of
from pages import markdown_html, resolve_html, share_scripts, title, to_html

from mi_helpers.suite import library
from mi_helpers.suite.expectations import load_suite

SITE = ROOT / "build" / "site"
WEB = Path(__file__).with_name("web")
PACKAGE = ROOT / "mi_helpers"
NAME = "Mechanistic interpretability, in notebooks"
MENU = (
    ("index.html", "Start"),
    ("notebooks.html", "Notebooks"),
    ("claims.html", "Claims"),
    ("glossary.html", "Glossary"),
    ("literature.html", "Literature"),
    ("api.html", "Helpers"),
    ("workshops.html", "Workshops"),
)
HEAD = (
    '<meta name="viewport" content="width=device-width, initial-scale=1.0">'
    '<script src="assets/theme.js"></script><link rel="stylesheet" href="assets/site.css">'
    '<link rel="stylesheet" href="assets/dark.css">'
)
SCRIPT = '<script src="assets/site.js"></script>'


@dataclass
class Site:
    """A site in the making: its folder, its links, and what the search knows so far."""

    out: Path
    links: Links
    titles: list[tuple[str, str]] = field(default_factory=list)
    rows: list[tuple[int, str, str, str]] = field(default_factory=list)

    def write(self, name: str, html: str, heading: str) -> None:
        """Write a page that is whole already, and take its sections into the index."""
        html = share_scripts(html, self.out / "assets")
        (self.out / name).write_text(html, encoding="utf-8")
        self.index(name, heading, sections(html))

    def page(self, name: str, heading: str, body: str, look: str = "mi-page") -> None:
        """Write a page around `body`; `look` are classes of the style sheet."""
        self.write(
            name,
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(heading)}'
            f'</title>{HEAD}</head><body>{header(name)}<main class="{look}">{body}</main>{SCRIPT}'
            "</body></html>\n",
            heading,
        )

    def markdown(self, name: str, path: Path) -> None:
        """Write the page of a Markdown file."""
        text = path.read_text(encoding="utf-8")
        found = re.search(r"^#\s+(.+)", text, re.M)
        resolve = self.links.resolver(path.parent)
        body = markdown_html(text, resolve, path.parent)
        look = "mi-page mi-stack" if name == "index.html" else "mi-page"
        self.page(name, plain(found[1]) if found else path.stem, body, look)

    def index(self, name: str, heading: str, found: Sequence[tuple[str, str, str]]) -> None:
        """Take sections (anchor, heading, text) of a page into the search."""
        self.titles.append((name, heading))
        at = len(self.titles) - 1
        self.rows += [(at, anchor, head or heading, text) for anchor, head, text in found]


def plain(markdown: str) -> str:
    """A heading without the marks of Markdown."""
    return re.sub(r"[`*]", "", markdown)


def header(name: str) -> str:
    """What every page has on top: the menu, the search, the switch of themes."""
    menu = "".join(
        f'<a href="{url}"{" aria-current=page" if url == name else ""}>{text}</a>'
        for url, text in MENU
    )
    return (
        f'<header class="mi-site"><div>{menu}<input type="search" placeholder="Search everything" '
        'aria-label="Search everything"><button class="mi-theme" type="button" '
        'title="Light or dark" aria-label="Light or dark">◐</button>'
        '<ul class="mi-hits" aria-live="polite"></ul></div></header>'
    )


class _Sections(HTMLParser):
    """The text of a page by its headings, without scripts, menus, hints and solutions."""

    SKIPPED = ("script", "style", "nav", "header", "details", "svg", "button", "select", "title")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[list[str]] = [["", "", ""]]
        self.skipped = 0
        self.heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.skipped += tag in self.SKIPPED
        if tag in ("h1", "h2", "h3") and given.get("id") and not self.skipped:
            self.found.append([f"#{given['id']}", "", ""])
            self.heading = True

    def handle_endtag(self, tag: str) -> None:
        self.skipped -= tag in self.SKIPPED
        self.heading = self.heading and tag not in ("h1", "h2", "h3")

    def handle_data(self, data: str) -> None:
        if not self.skipped:
            self.found[-1][1 if self.heading else 2] += data + ("" if self.heading else " ")


def sections(html: str) -> list[tuple[str, str, str]]:
    """Anchor, heading and text of each section of a page; the first has no anchor."""
    parser = _Sections()
    parser.feed(html)
    made = []
    for anchor, head, text in parser.found:
        head = " ".join(head.replace("¶", " ").split())
        text = " ".join(text.split())
        if head or text:
            made.append((anchor, head, text))
    return made


def other_pages(root: Path) -> dict[Path, str]:
    """The pages of files and folders that are no notebooks, by path."""
    found = {
        root / "README.md": "index.html",
        root / "CONTRIBUTING.md": "contributing.html",
        root / "benchmarks" / "README.md": "benchmarks.html",
        root / "notebooks" / "src" / "README.md": "writing.html",
        root / "mi_helpers" / "README.md": "api.html",
        root / "workshops" / "README.md": "workshops.html",
    }
    for path in sorted(root.glob("data/*/README.md")):
        found[path] = f"data-{path.parent.name}.html"
    for folder in ("docs", "workshops"):
        for path in sorted((root / folder).glob("*.md")):
            found.setdefault(path, f"{folder}-{path.stem}.html")
    found = {path: page for path, page in found.items() if path.is_file()}
    for room, path in rooms(root / "mi_helpers").items():
        place = path.parent if path.name == "__init__.py" else path
        found[place] = f"api-{room}.html"
    return found


def notebook_pages(site: Site, executed: Sequence[Path], originals: Sequence[Path]) -> None:
    """Write the page of each executed notebook."""
    for ran, original in zip(executed, originals, strict=True):
        notebook, folder = nbformat.read(ran, as_version=4), original.parent
        nav = site.links.navigation(original)
        nav = nav.replace('href="index.html"', 'href="notebooks.html"')
        if learner := site.links.resolve(folder, f"exercises/{original.name}"):
            nav = nav.replace(
                "</nav>", f'<span><a href="{escape(learner)}">Notebook to solve</a></span></nav>'
            )
        html = to_html(
            notebook, site.links.resolver(folder), nav, folder,
            head=HEAD, header=header(f"{original.stem}.html"),
        )  # fmt: skip
        html = html.replace("</body>", f"{SCRIPT}</body>", 1)
        site.write(f"{original.stem}.html", html, title(notebook) or original.stem)


def notebooks_page(site: Site, run: dict[str, Any]) -> None:
    """Write the list of the notebooks with questions, times and the run they were executed in."""
    took = {one["notebook"]: one for one in run.get("notebooks", [])}
    rows = []
    for one in library.notebooks():
        page = site.links.resolve(ROOT / "notebooks", f"{one.name}.ipynb")
        name = f'<a href="{page}">{escape(one.title)}</a>' if page else escape(one.title)
        report = took.get(one.name, {})
        seconds = "" if report.get("seconds") is None else f"{report['seconds']:.0f}"
        question = markdown_html(one.question, site.links.resolver(ROOT / "notebooks"))
        rows.append(
            f"<tr><td>{name}</td><td>{question}</td><td>{one.minutes}</td><td>{seconds}</td>"
            f"<td>{escape(report.get('error') or '')}</td></tr>"
        )
    body = (
        f"<h1>Notebooks</h1><p>Executed on {escape(run.get('model', 'an unknown model'))}; "
        f"{escape(run.get('machine', ''))}. Solutions are folded away under their exercises. "
        'For those who teach: <a href="speaking-notes.html">speaking notes</a>.</p>'
        "<table><thead><tr><th>notebook</th><th>question</th><th>minutes to read</th>"
        f"<th>seconds to run</th><th></th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
    site.page("notebooks.html", "Notebooks", body, "mi-page mi-stack")


def notes_page(site: Site, executed: Sequence[Path]) -> None:
    """Write the speaking notes."""
    suite, about_them = load_suite(), {one.name: one for one in library.notebooks()}
    made = []
    for path in executed:
        one = about_them[path.stem]
        found = notes_of(nbformat.read(path, as_version=4), suite.get(path.stem, {}))
        question = re.sub(r"\]\([^)]*\)|[\[*`]", "", one.question)
        made.append((one.title, f"{path.stem}.html", question, found))
    body = f"<h1>Speaking notes</h1>{notes_body(made)}"
    site.page("speaking-notes.html", "Speaking notes", body)


def table_page(
    site: Site, name: str, heading: str, html: str, found: Sequence[tuple[str, str, str]]
) -> None:
    """Write a page of one table with a search box; each of its rows is found by the search."""
    resolve = site.links.resolver(ROOT / "notebooks")
    html = resolve_html(html, resolve)
    site.page(name, heading, f"<h1>{heading}</h1>{html}", "mi-page mi-stack")
    site.rows = [row for row in site.rows if row[0] != len(site.titles) - 1]
    site.rows += [(len(site.titles) - 1, anchor, head, text) for anchor, head, text in found]


def find(words: str) -> str:
    """The anchor that makes a page show what its own search box finds."""
    return f"#find={quote(words)}"


def library_pages(site: Site, runs: Sequence[dict[str, Any]]) -> None:
    """Write claims, glossary and literature."""
    pages = {path.stem: path.name for path in site.links.pages}  # resolved as in a notebook
    made = list(cards(load_suite(), runs))
    body = page_body(made, pages)
    statements = {
        claim.id: claim.statement for one in load_suite().values() for claim in one.values()
    }
    found = [(find(key), key, text) for key, text in statements.items()]
    table_page(site, "claims.html", "Claims", body, found)
    terms = [
        (find(entry.term), ", ".join((entry.term, *entry.aliases)), plain(entry.definition))
        for entry in library.glossary()
    ]
    table_page(site, "glossary.html", "Glossary", str(library.glossary_html().data), terms)
    works = [
        (find(work.title), work.title, f"{work.label}: {', '.join(work.topics)}")
        for work in library.literature().values()
    ]
    table_page(site, "literature.html", "Literature", str(library.literature_html().data), works)


def api_pages(site: Site) -> None:
    """Write the map of the helpers and a page for each of their rooms."""
    for room in rooms(PACKAGE):
        site.page(f"api-{room}.html", f"mi_helpers.{room}", room_html(PACKAGE, room))
    path = PACKAGE / "README.md"
    text = markdown_html(path.read_text(encoding="utf-8"), site.links.resolver(PACKAGE), PACKAGE)
    items = "".join(
        f'<li><a href="api-{room}.html"><code>{room}</code></a> '
        f"({len(public_names(PACKAGE, room))} names): {inline(about(place).partition(chr(10))[0])}"
        "</li>"
        for room, place in rooms(PACKAGE).items()
    )
    reference = f'<h2 id="reference">Reference</h2><ul>{items}</ul>'
    site.page("api.html", "Helpers", f"{text}{reference}")


def assets(site: Site) -> None:
    """Put style, scripts and JupyterLab's dark colours into the folder."""
    folder = site.out / "assets"
    folder.mkdir(parents=True, exist_ok=True)
    for path in WEB.iterdir():
        shutil.copyfile(path, folder / path.name)
    dark = _template_file("static/theme-dark.css").replace(":root", 'html[data-theme="dark"]')
    (folder / "dark.css").write_text(dark, encoding="utf-8")


def _template_file(name: str) -> str:
    """A file of nbconvert's template for JupyterLab's look."""
    exporter = TemplateExporter(template_name="lab")
    for path in exporter.template_paths:
        if (Path(path) / name).is_file():
            return (Path(path) / name).read_text(encoding="utf-8")
    raise FileNotFoundError(
        f"nbconvert's template has no {name}; looked in {exporter.template_paths}"
    )


def write_index(site: Site) -> None:
    """Write what the search reads: a script, since a page from disk may load no other file."""
    text = json.dumps([site.titles, site.rows], ensure_ascii=False, separators=(",", ":"))
    call = f"window.miIndex(...{text});\n".replace("</", "<\\/")
    (site.out / "assets" / "search-index.js").write_text(call, encoding="utf-8")


def build(gallery: Path, out: Path) -> Site:
    """Write the site of a gallery.

    Raises:
        FileNotFoundError: the gallery holds no executed notebook.
    """
    executed = sorted((gallery / "executed").glob("*.ipynb"))
    if not executed:
        raise FileNotFoundError(f"no executed notebooks in {gallery}: `make run` first")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    originals = [ROOT / "notebooks" / path.name for path in executed]
    others = other_pages(ROOT)
    site = Site(out, Links(originals, out, ROOT, others))
    assets(site)
    run = gallery / "run.json"
    notebook_pages(site, executed, originals)
    notebooks_page(site, json.loads(run.read_text(encoding="utf-8")) if run.is_file() else {})
    notes_page(site, executed)
    library_pages(site, _runs(gallery))
    api_pages(site)
    for path, page in others.items():
        if path.suffix == ".md" and page != "api.html":
            site.markdown(page, path)
    write_index(site)
    return site


def _runs(gallery: Path) -> list[dict[str, Any]]:
    """The committed runs, and after them those of the gallery."""
    results = ROOT / "data" / "results.json"
    kept = json.loads(results.read_text(encoding="utf-8"))["runs"] if results.is_file() else []
    paths = sorted((gallery / "claims").glob("*.json"))
    return kept + [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def sizes(out: Path) -> str:
    """What the site weighs, and its heaviest parts."""
    files = {path: path.stat().st_size for path in out.rglob("*") if path.is_file()}
    shared = sum(size for path, size in files.items() if path.parent.name == "assets")
    return (
        f"{len(files)} files, {sum(files.values()) / 1e6:.1f} MB in all, "
        f"{shared / 1e6:.1f} MB of them shared by the pages"
    )


def main() -> int:
    """Read the command line and do what it asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gallery", type=Path, default=GALLERY)
    parser.add_argument("--out", type=Path, default=SITE)
    options = parser.parse_args()
    try:
        build(options.gallery, options.out)
    except FileNotFoundError as err:
        print(err, file=sys.stderr)
        return 1
    print(f"{sizes(options.out)}. Open {options.out / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
