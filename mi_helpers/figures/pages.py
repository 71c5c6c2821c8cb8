"""Which output of a notebook carries a script that the others on its page rely on."""

from __future__ import annotations

import sys


def needs_script(name: str) -> bool:
    """Whether the next output must carry the script `name` for the page it lands on to work.

    The first cell that shows such an output carries it, and carries it again each time it is rerun,
    since its old output is gone then. Colab shows each output in a frame of its own. The
    bookkeeping lives on the IPython shell, so a restarted kernel starts afresh.
    """
    from IPython import get_ipython

    shell = get_ipython()
    kernel = getattr(shell, "kernel", None)
    if kernel is None or "google.colab" in sys.modules:
        return True
    parent = kernel.get_parent() if hasattr(kernel, "get_parent") else {}
    holders: dict[str, tuple[str, str]] = getattr(shell, "mi_script_holders", {})
    metadata, holder = parent.get("metadata", {}), holders.get(name)
    if parent.get("header", {}).get("msg_type") != "execute_request":  # a widget's callback
        return holder is None
    cell = metadata.get("cellId") or parent["content"]["code"]
    run = parent["header"]["msg_id"]
    if holder and holder[0] not in metadata.get("deletedCells", ()):
        if holder[0] != cell or holder[1] == run:
            return False
    shell.mi_script_holders = holders | {name: (cell, run)}
    return True
