"""Settings for every pytest run in this repository, of notebooks too (`pytest --nbmake`)."""

from __future__ import annotations

import os

from kernel import own_kernel  # in tools/

os.environ.update(own_kernel())
