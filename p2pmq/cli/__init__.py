"""The command line: what a person or a script does with a mesh, without writing Python.

typer and rich are an extra: the library runs without them, and this room says
what to install where they are missing.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

EXTRA = frozenset({"click", "rich", "typer"})


def main() -> None:
    """Run the command `p2pmq`; it ends the process."""
    try:
        from p2pmq.cli.app import app  # noqa: PLC0415  an extra, which may be missing
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        sys.exit(
            f"p2pmq: the command line needs {error.name}, which is not installed: "
            'pip install "p2pmq[cli]"'
        )
    app(prog_name="p2pmq")
