"""The public names of `mi_helpers` as pages, read from the sources and their docstrings.

Nothing is imported, so that the pages are made in a second and on any machine. A room's public
names are those of its `__all__`; a module without one shows its functions and classes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example", "Examples", "Note")
SIMPLE = ("Returns", "Yields", "Example", "Examples", "Note")


@dataclass(frozen=True)
class Name:
    """One public name: its room, the file that defines it, and the statement that does."""

    room: str
    name: str
    path: Path
    node: ast.stmt


def rooms(package: Path) -> dict[str, Path]:
    """The rooms of the package in alphabetical order: name and the file that stands for each."""
    folders = {path.parent.name: path for path in package.glob("*/__init__.py")}
    modules = {path.stem: path for path in package.glob("*.py") if path.stem != "__init__"}
    return dict(sorted((folders | modules).items()))


def about(path: Path) -> str:
    """A module's docstring."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def public_names(package: Path, room: str) -> list[Name]:
    """What a room offers, in alphabetical order.

    Raises:
        ValueError: a name of `__all__` whose definition is not found in the package.
    """
    path = rooms(package)[room]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wanted = _all(tree)
    if wanted is None:
        paths = [path] if path.name != "__init__.py" else sorted(path.parent.glob("*.py"))
        found = [
            Name(room, node.name, one, node)
            for one in paths
            for node in ast.parse(one.read_text(encoding="utf-8")).body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"
        ]
    else:
        found = [_find(package, room, name, path) for name in wanted]
    return sorted(found, key=lambda one: one.name.lower())


def room_html(package: Path, room: str) -> str:
    """The body of a room's page: what it is for, then each name."""
    parts = [f"<h1><code>mi_helpers.{room}</code></h1>", prose(about(rooms(package)[room]))]
    names = public_names(package, room)
    links = (f'<a href="#{room}.{n.name}"><code>{n.name}</code></a>' for n in names)
    parts.append(f'<p class="mi-names">{" · ".join(links)}</p>')
    for one in names:
        where = one.path.relative_to(package.parent).as_posix()
        parts.append(
            f'<section><h2 id="{room}.{one.name}">{one.name}</h2>'
            f'<p class="mi-where">{escape(where)}</p>{_definition(one.node)}</section>'
        )
    return "\n".join(parts)


def docstring_html(text: str) -> str:
    """A Google-style docstring as HTML."""
    blocks = re.split(rf"^({'|'.join(SECTIONS)}):[ \t]*$", text, flags=re.M)
    made = prose(blocks[0])
    for head, body in zip(blocks[1::2], blocks[2::2], strict=True):
        lines = _dedent(body)
        shown = prose(lines) if head in SIMPLE else _entries(lines)
        made += f"<h4>{head}</h4>{shown}"
    return made


def prose(text: str) -> str:
    """Paragraphs, lists, indented code and `code` of a docstring as HTML."""
    parts = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        if not block.strip():
            continue
        if block.startswith("    "):
            parts.append(f"<pre>{escape(_dedent(block))}</pre>")
        elif block.lstrip().startswith("- "):
            items = re.split(r"^\s*- ", block, flags=re.M)[1:]
            parts.append("<ul>" + "".join(f"<li>{inline(item)}</li>" for item in items) + "</ul>")
        else:
            parts.append(f"<p>{inline(block)}</p>")
    return "".join(parts)


def inline(text: str) -> str:
    """Text with its `code` marked, single or double backticks alike."""
    text = escape(" ".join(text.split()), quote=False).removesuffix("::")
    return re.sub(r"(`{1,2})(?!`)(.+?)\1", r"<code>\2</code>", text)


def _dedent(text: str) -> str:
    lines = text.strip("\n").splitlines()
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[indent:] for line in lines)


def _entries(text: str) -> str:
    """`name: what it is`, with lines that go on indented, as a list of definitions."""
    entries = re.split(r"\n(?=\S)", text)
    items = []
    for entry in entries:
        name, colon, what = entry.partition(":")
        if not colon:
            name, what = "", entry
        items.append(f"<dt><code>{escape(name.strip())}</code></dt><dd>{inline(what)}</dd>")
    return f"<dl>{''.join(items)}</dl>"


def _all(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    return None


def _find(package: Path, room: str, name: str, path: Path) -> Name:
    """Follow a name from the file that exports it to the one that defines it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if name in _defines(node):
            return Name(room, name, path, node)
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    if node.module.split(".")[0] != package.name:
                        return Name(room, name, path, node)
                    place = package.parent.joinpath(*node.module.split("."))
                    module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
                    return _find(package, room, alias.name, module)
    raise ValueError(f"{room}: {name} is exported, and no file of the package defines it")


def _defines(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def _definition(node: ast.stmt) -> str:
    if isinstance(node, ast.ImportFrom):
        return f"<p>As <code>{escape(node.module or '')}</code> has it.</p>"
    if isinstance(node, ast.FunctionDef):
        return (
            f"<pre>{escape(_signature(node))}</pre>{docstring_html(ast.get_docstring(node) or '')}"
        )
    if not isinstance(node, ast.ClassDef):
        return f"<pre>{escape(ast.unparse(node))}</pre>"
    bases = ", ".join(map(ast.unparse, node.bases))
    parts = [f"<pre>class {node.name}{f'({escape(bases)})' if bases else ''}"]
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
    parts += ["".join(f"\n    {escape(ast.unparse(field))}" for field in fields), "</pre>"]
    parts.append(docstring_html(ast.get_docstring(node) or ""))
    for method in node.body:
        if not isinstance(method, ast.FunctionDef):
            continue
        text = ast.get_docstring(method)
        if text and (method.name[0] != "_" or method.name in ("__init__", "__call__")):
            parts.append(
                f"<h3><code>{node.name}.{method.name}</code></h3>"
                f"<pre>{escape(_signature(method))}</pre>{docstring_html(text)}"
            )
    return "".join(parts)


def _signature(node: ast.FunctionDef) -> str:
    """`name(arguments) -> result`, one argument a line where it would not fit."""
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{node.name}({ast.unparse(node.args)}){result}"
    if len(line) <= 90:
        return line
    return f"{node.name}(\n    " + ",\n    ".join(_arguments(node.args)) + f",\n){result}"


def _arguments(args: ast.arguments) -> Iterator[str]:
    places = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(places) - len(args.defaults)) + list(args.defaults)
    for place, default in zip(places, defaults, strict=True):
        yield _argument(place, default)
    if args.vararg:
        yield f"*{ast.unparse(args.vararg)}"
    elif args.kwonlyargs:
        yield "*"
    for place, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        yield _argument(place, default)
    if args.kwarg:
        yield f"**{ast.unparse(args.kwarg)}"


def _argument(place: ast.arg, default: ast.expr | None) -> str:
    text = ast.unparse(place)
    if default is None:
        return text
    return f"{text}{' = ' if place.annotation else '='}{ast.unparse(default)}"
