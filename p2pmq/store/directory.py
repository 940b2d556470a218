"""The data directory: made when it is missing, and locked for one process.

One process per directory: LMDB would let a second one in, and two nodes under
one node id lose messages. The lock is a `flock` on a file that is never
deleted (deleting it would let two processes lock two files of one name); the
kernel lets go of it when the process dies, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from p2pmq.errors import DataDirectoryError, DataDirectoryLockedError

if TYPE_CHECKING:
    from pathlib import Path

LOCK_NAME = "lock"


def make_directory(path: Path) -> bool:
    """Make the directory (and its parents) if it is not there; whether it was made.

    Only its owner may look into it: it holds messages. Raises DataDirectoryError.
    """
    if path.is_dir():
        return False
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError as error:
        raise DataDirectoryError(str(path), "it is a file, not a directory") from error
    except NotADirectoryError as error:
        raise DataDirectoryError(str(path), "a part of the path is a file") from error
    except OSError as error:
        raise DataDirectoryError(str(path), f"it cannot be made ({error.strerror})") from error
    return True


def sync_directory(path: Path) -> None:
    """Make the directory's entries durable, and its own entry in its parent."""
    for folder in (path, path.parent):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class DirectoryLock:
    """The lock of one data directory; taken when made, until `release` or the process's end."""

    __slots__ = ("_descriptor",)

    def __init__(self, path: Path) -> None:
        """Raises DataDirectoryLockedError, DataDirectoryError."""
        try:
            descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            reason = f"its lock file cannot be opened for writing ({error.strerror})"
            raise DataDirectoryError(str(path), reason) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).strip()
            os.close(descriptor)
            pid = int(holder) if holder.isdigit() else None
            raise DataDirectoryLockedError(str(path), pid) from error
        except OSError as error:
            os.close(descriptor)
            reason = f"its file system cannot lock files ({error.strerror})"
            raise DataDirectoryError(str(path), reason) from error
        with contextlib.suppress(OSError):  # only the message of the next one needs the number
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let another process have the directory."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
