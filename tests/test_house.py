"""The plan of the package: who may import whom, where a run is changed or read, what is public."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mi_helpers"
FILES = sorted(PACKAGE.rglob("*.py"))

# Lowest first. A room imports from rooms before it, never from one after it.
ROOMS = [
    "files", "checksums", "sites", "interventions", "metrics", "models", "spread", "prompts",
    "lens", "heads", "engine", "patching", "circuits", "sae", "steering", "toys", "figures",
    "suite",
]  # fmt: skip
KNOW_NO_MODEL = {"figures", "suite"}
RAW_HOOKS = {"interventions.py", "sites.py", "engine/hooked.py"}
# Public names that no notebook, tool or benchmark uses, each with its reason.
UNUSED = {
    "prompts.greater_than": "a second published task, to repeat notebooks 05 to 08 on",
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[tuple[str, str]]:
    """(room, whole module) of every import from the package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            if (node.module or "") == "mi_helpers":
                for alias in node.names:
                    yield alias.name, f"mi_helpers.{alias.name}"
            elif (node.module or "").startswith("mi_helpers."):
                yield node.module.split(".")[1], node.module
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("mi_helpers."):
                    yield alias.name.split(".")[1], alias.name


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", [p for p in FILES if p != PACKAGE / "__init__.py"], ids=name_of)
def test_rooms_depend_downward_only(path: Path) -> None:
    room = room_of(path)
    assert room in ROOMS, f"{room} has no place in the plan: mi_helpers/README.md"
    for other, module in imported_rooms(path):
        if other == room:
            continue
        assert ROOMS.index(other) < ROOMS.index(room), f"{room} imports {module}, which is above"
        types = path.read_text(encoding="utf-8").partition("if TYPE_CHECKING:\n")[2]
        typed = f"    from {module} import" in types
        assert room not in KNOW_NO_MODEL or typed or other == "files", (
            f"{room} imports {module}; it works on data alone"
        )


def test_modules_of_a_room_form_no_circle() -> None:
    graph = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): {m for _, m in imported_rooms(path)}
        for path in FILES
        if path.name != "__init__.py"
    }
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above, module])
        if module not in done:
            for other in graph.get(module, ()):
                visit(other, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_engine_is_entered_by_one_door(path: Path) -> None:
    if room_of(path) != "engine":
        inside = [m for room, m in imported_rooms(path) if room == "engine" and m.count(".") > 1]
        assert not inside, f"import from mi_helpers.engine, not from {inside}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_one_verb_each(path: Path) -> None:
    """A run is changed through intervene, read through read, and hooks are named in one place."""
    text = path.read_text(encoding="utf-8")
    name = name_of(path)
    code = "\n".join(
        ast.unparse(node) for node in ast.parse(text).body if not isinstance(node, ast.Expr)
    )
    if name not in RAW_HOOKS:
        assert "fwd_hooks=" not in code, "change a run through interventions.intervene"
    if name != "sites.py" and not name.startswith("suite/checks/"):
        strings = [
            node.value
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        docs = {ast.get_docstring(n, clean=False) for n in ast.walk(ast.parse(text))
                if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)}  # fmt: skip
        named = [s for s in strings if s.startswith("blocks.") and s not in docs]
        assert not named, f"hook names belong to sites.py: {named}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "the first lines say what a module is for"
    assert not path.name.startswith("_") or path.name == "__init__.py", "no private modules"
    if "suite/checks" not in name_of(path):
        assert len(text.splitlines()) <= 400, "one idea a file"


@pytest.mark.parametrize(
    "path", [p for p in FILES if "suite/checks" not in name_of(p)], ids=name_of
)
def test_functions_are_short(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = node.end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 40, f"{node.name} has a body of {lines} lines"


def public_names() -> Iterator[tuple[str, str]]:
    for room in ("circuits", "figures", "heads", "lens", "models", "patching", "prompts", "sae",
                 "steering", "toys"):  # fmt: skip
        tree = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                yield from ((room, item.value) for item in node.value.elts)
    for module in ("sites", "interventions", "metrics"):
        for node in ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield module, node.name


def test_public_names_are_used() -> None:
    """In a notebook, tool, benchmark or script under data; data types, by the package."""
    places = [*ROOT.glob("notebooks/src/*.py"), *ROOT.glob("tools/*.py"),
              *ROOT.glob("benchmarks/*.py"), *ROOT.glob("data/**/*.py")]  # fmt: skip
    used = set(re.findall(r"\w+", "\n".join(p.read_text(encoding="utf-8") for p in places)))
    inside = {
        path: set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
        for path in FILES if path.name != "__init__.py"
    }  # fmt: skip
    unused = []
    for room, name in public_names():
        elsewhere = [path for path, words in inside.items() if name in words]
        if name[0].isupper() or f"{room}.{name}" in UNUSED:  # a type of what a function returns
            continue
        if name not in used and len(elsewhere) < 2:
            unused.append(f"{room}.{name}")
    assert not unused, f"used nowhere: {', '.join(unused)}"
