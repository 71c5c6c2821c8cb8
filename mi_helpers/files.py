"""Files that are written whole or not at all, and by one process at a time."""

from __future__ import annotations

import errno
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Yield a file beside `path` to write to; it becomes `path` when the block ends.

    Whoever reads `path` meanwhile sees what was there before. If the block fails or is interrupted,
    `path` is as it was and the file beside it is gone.

    Args:
        path: The file; its folder must exist.

    Raises:
        FileNotFoundError: no such folder, or the block wrote nothing.
        OSError: the disk, or this user's part of it, is full; the message says what to do.
    """
    path = Path(path)
    # On a shared disk, kernels of two machines or containers may have the same process id.
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield part
        os.replace(part, path)
    except Exception as err:
        if not disk_is_full(err):
            raise
        said = f"no space left for {path}: what was there stays. Free some, then do the same again"
        raise OSError(errno.ENOSPC, said) from err
    finally:
        part.unlink(missing_ok=True)


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], **about: str) -> None:
    """Write one safetensors file, whole or not at all, that others may read as they may any file.

    Args:
        path: The file; its folder must exist.
        tensors: None may share its memory with another.
        about: The file's metadata.

    Raises:
        OSError: as `write_whole`.
    """
    from safetensors.torch import save_file  # with torch: what writes plain files needs neither

    with write_whole(path) as part:
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, part, about or None)
        part.chmod(0o644)


def disk_is_full(err: BaseException) -> bool:
    """Whether something failed because there is no space, or no more that this user may fill."""
    if isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "(os error 28)" in str(err) or "(os error 122)" in str(err)  # as safetensors tells it


@contextmanager
def locked(path: str | Path, patience: float = 10.0) -> Iterator[None]:
    """Let one process at a time into the block that reads `path`, changes it and writes it back.

    The lock is the system's, on an empty file beside `path` that stays there. Whoever holds it and
    dies lets it go.

    Args:
        path: The file; its folder must exist. What is written to it goes through `write_whole`.
        patience: Seconds to wait for another process to finish.

    Raises:
        TimeoutError: another process held it for longer.
        OSError: nothing can be written in the folder, or its disk knows no locks.
    """
    path = Path(path)
    end = time.monotonic() + patience
    with open(path.with_name(f".{path.name}.lock"), "a+b") as handle:
        while not _taken(handle):
            if time.monotonic() > end:
                raise TimeoutError(f"another process has held {path} for {patience:.0f} seconds")
            time.sleep(0.02)
        yield  # closing the file lets the lock go


def _taken(handle: IO[bytes]) -> bool:
    """Take the lock on an open file, unless somebody has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        if err.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True
