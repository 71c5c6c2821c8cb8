"""Which names code binds, uses and changes, told without running it."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterable, Iterator, Sequence


def bound_and_used(code: str, inside: bool = True) -> tuple[set[str], set[str]]:
    """The names that code binds for what follows it, and those it uses that are not its own.

    What a function uses counts as used where it is defined, or not at all without `inside`.
    """
    bound: set[str] = set()
    used: set[str] = set()
    for names, needs in _steps(ast.parse(code).body, inside):
        used |= needs - bound
        bound |= names
    return bound, used


def _steps(nodes: Sequence[ast.stmt], inside: bool) -> Iterator[tuple[set[str], set[str]]]:
    """(bound, used) of each simple statement, and of the heads of compound ones, in order."""
    for node in nodes:
        if isinstance(node, ast.For):
            yield _scope(node.iter)
            yield _targets(node.target), set()
        elif isinstance(node, ast.With):
            for item in node.items:
                yield _scope(item.context_expr)
                yield _targets(item.optional_vars), set()
        elif isinstance(node, ast.If | ast.While):
            yield _scope(node.test)
        elif isinstance(node, ast.FunctionDef) and not inside:
            yield {node.name}, set()
            continue
        elif not isinstance(node, ast.Try):
            yield _scope(node)
            continue
        yield from _steps(node.body, inside)
        for handler in getattr(node, "handlers", []):
            yield {handler.name} if handler.name else set(), _scope(handler.type)[1]
            yield from _steps(handler.body, inside)
        yield from _steps(getattr(node, "orelse", []), inside)
        yield from _steps(getattr(node, "finalbody", []), inside)


def _scope(node: ast.AST | None) -> tuple[set[str], set[str]]:
    """What one statement or expression binds and uses."""
    if node is None:
        return set(), set()
    table = symtable.symtable(ast.unparse(node), "cell", "exec")
    symbols = table.get_symbols()
    own = {one.get_name() for one in symbols if one.is_assigned() or one.is_imported()}
    used = {one.get_name() for one in symbols if one.is_referenced()} | set(_inner(table))
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return own, used - own  # it may call itself
    named = {n.target.id for n in ast.walk(node) if isinstance(n, ast.NamedExpr)}
    again = _targets(node.target) if isinstance(node, ast.AugAssign) else set()
    return own | named, used - named | again


def _inner(table: symtable.SymbolTable) -> Iterator[str]:
    """The global names that the functions, classes and comprehensions of a scope use."""
    for child in table.get_children():
        for one in child.get_symbols():
            # Not local either: of a function called "top", Python 3.11 says that all is global.
            if one.is_referenced() and one.is_global() and not one.is_local():
                yield one.get_name()
        yield from _inner(child)


def _targets(node: ast.AST | None) -> set[str]:
    """The names that a loop, a `with` or an assignment gives a value."""
    found = ast.walk(node) if node else ()
    return {n.id for n in found if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def changed(code: str) -> set[str]:
    """The names whose things code may change in place: those whose item or attribute is set, and of
    a call that stands alone its object and what it is given by position.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= _roots([node])
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            found |= _roots([node.value.func, *node.value.args])
    return found


def _roots(nodes: Iterable[ast.AST]) -> set[str]:
    """The names that `a.b[c].d(...)` and the like start with."""
    found = set()
    for node in nodes:
        while isinstance(node, ast.Attribute | ast.Subscript | ast.Call | ast.Starred):
            node = node.func if isinstance(node, ast.Call) else node.value
        if isinstance(node, ast.Name):
            found.add(node.id)
    return found
