"""Counters by name, and a log that says each kind of trouble at most once a second.

A counter is a plain integer in a dict: counting must cost nothing on the hot
path. Exporters read `snapshot()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

LOG_INTERVAL_S = 1.0


class Counters:
    """The counters of one node."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[str, int] = {}

    def add(self, what: str, count: int = 1) -> None:
        """Count something."""
        self._values[what] = self._values.get(what, 0) + count

    def __getitem__(self, what: str) -> int:
        return self._values.get(what, 0)

    def snapshot(self) -> dict[str, int]:
        """All counters now, by name."""
        return dict(sorted(self._values.items()))


class CalmLog:
    """Logs a kind of trouble at most once a second, saying how much was left out."""

    __slots__ = ("_last", "_log", "_now", "_silent")

    def __init__(self, log: logging.Logger, now: Callable[[], float]) -> None:
        self._log = log
        self._now = now
        self._last: dict[str, float] = {}
        self._silent: dict[str, int] = {}

    def warning(self, kind: str, text: str) -> None:
        """Say it, unless the same kind was said within the last second."""
        now = self._now()
        last = self._last.get(kind)
        if last is not None and now - last < LOG_INTERVAL_S:
            self._silent[kind] = self._silent.get(kind, 0) + 1
            return
        self._last[kind] = now
        silent = self._silent.pop(kind, 0)
        more = f" (and {silent} more like it)" if silent else ""
        self._log.warning("%s: %s%s", kind, text, more)
