"""Where a node keeps its data unless it is told.

Invariant: different (mesh, name) give different directories, all of them below
one, whatever characters the names have.
"""

from __future__ import annotations

import hashlib
import os
import string
from pathlib import Path

_SAFE = frozenset((string.ascii_letters + string.digits + "-_.").encode())
_COMPONENT_BYTES_MAX = 200
"""File systems take 255 bytes; some room for what tools append to a name."""


def default_data_dir(mesh: str, name: str) -> Path:
    """The directory of node `name` of `mesh`: below XDG_DATA_HOME, or ~/.local/share.

    Different nodes get different directories, whatever characters their names have.
    """
    home = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not home.is_absolute():  # the XDG base directory specification: ignore a relative one
        home = Path.home() / ".local" / "share"
    return home / "p2pmq" / path_component(mesh) / path_component(name)


def path_component(name: str) -> str:
    """The name as one component of a path; different names give different components.

    Letters, digits, "-", "_" and "." that is not the first stay; other bytes become
    %XX, and a name that is too long becomes its beginning, "~" and its BLAKE2 digest.
    """
    raw = name.encode("utf-8", "surrogatepass")
    quoted = "".join(
        chr(byte) if byte in _SAFE and (at or byte != ord(".")) else f"%{byte:02X}"
        for at, byte in enumerate(raw)
    )
    if len(quoted) > _COMPONENT_BYTES_MAX:
        digest = hashlib.blake2b(raw, digest_size=20).hexdigest()
        return f"{quoted[:100]}~{digest}"
    return quoted or "%"
