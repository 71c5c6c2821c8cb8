"""Put what a benchmark measured into benchmarks/README.md, with the machine it was measured on."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from gallery import machine  # noqa: E402

PAGE = Path(__file__).with_name("README.md")


def record(name: str, rows: Sequence[Mapping[str, Any]], note: str, page: Path = PAGE) -> None:
    """Write `rows` as the table between `<!-- name -->` and `<!-- end name -->`, below a note.

    Raises:
        ValueError: no rows, or a page without the two marks.
    """
    if not rows:
        raise ValueError(f"{name}: nothing was measured")
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row[column]) for column in columns) + " |" for row in rows]
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.S)
    text = page.read_text(encoding="utf-8")
    if len(marked.findall(text)) != 1:
        raise ValueError(f"{page} must hold `<!-- {name} -->` … `<!-- end {name} -->` once")
    body = f"{machine()}. {note}\n\n" + "\n".join(lines)
    page.write_text(marked.sub(lambda m: f"{m[1]}{body}\n{m[2]}", text), encoding="utf-8")
