"""The kernel that the tools and the tests start: this environment's, whatever else is installed."""

from __future__ import annotations

import os
import sys


def own_kernel() -> dict[str, str]:
    """Environment variables that put this environment's `python3` before every other one.

    A kernel of that name that JUPYTER_PATH or the user's folder holds may be of an environment that
    is gone; other kernels there are still found.
    """
    paths = [os.path.join(sys.prefix, "share", "jupyter"), os.environ.get("JUPYTER_PATH", "")]
    return {"JUPYTER_PATH": os.pathsep.join(path for path in paths if path)}
