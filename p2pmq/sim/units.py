"""Values in scenario files: how each is written, read and written again.

A kind of value is one object: the schema names it (`Annotated[int, DURATION]`),
the reader and the writer use it, and its `shape` stands in error messages and
in the docs.

Invariant: `read(write(value)) == value`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from p2pmq.core.packets.publishing import PRIORITY_MAX

UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
UNITS_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_QUANTITY = re.compile(r"([+-]?\d+(?:\.\d+)?) *([A-Za-z]+)")


class ValueRefused(ValueError):  # noqa: N818  it never leaves the reader, which adds file and line
    """This value cannot be; the text says why."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value."""

    shape: str
    """How it is written, for people."""
    read: Callable[[Any], Any]
    """From TOML's types; raises ValueRefused."""
    write: Callable[[Any], Any]
    """Back to TOML's types."""


# ------------------------------------------------------------------------------ single values


def _quantity(value: object, units: dict[str, int], example: str) -> int:
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if found is None or found[2] not in units:
        raise ValueRefused(
            f"{value!r} has no unit that fits: write a number and one of {', '.join(units)}, "
            f"as {example!r}"
        )
    return round(float(found[1]) * units[found[2]])


def _duration(value: object) -> int:
    duration_ms = _quantity(value, UNITS_MS, "250ms")
    if duration_ms < 0:
        raise ValueRefused(f"{value!r} is negative: write a duration from 0 on")
    return duration_ms


def written_duration(duration_ms: int) -> str:
    """As a person would write it: the largest unit that leaves a whole number."""
    for unit, size in reversed(UNITS_MS.items()):
        if duration_ms % size == 0 and (duration_ms or unit == "s"):
            return f"{duration_ms // size}{unit}"
    raise AssertionError("every number of milliseconds is a multiple of 1 ms")


def _size(value: object) -> int:
    size = value if type(value) is int else _quantity(value, UNITS_BYTES, "64KiB")
    if size < 0:
        raise ValueRefused(f"{value!r} is negative: write a size from 0 on")
    return size


def _written_size(size: int) -> str:
    for unit, factor in reversed(UNITS_BYTES.items()):
        if size % factor == 0 and (size or unit == "B"):
            return f"{size // factor}{unit}"
    raise AssertionError("every size is a multiple of 1 B")


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueRefused(f"{value!r} is no number")
    return float(value)


def _share(value: object) -> float:
    share = _number(value)
    if not 0 <= share <= 1:
        raise ValueRefused(f"{value!r} is no share: write a number from 0 to 1")
    return share


def _priority(value: object) -> int:
    if type(value) is not int or value not in range(PRIORITY_MAX + 1):
        raise ValueRefused(f"{value!r} is no priority: write 0 to {PRIORITY_MAX}")
    return value


def _count(least: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if type(value) is not int or value < least:
            raise ValueRefused(f"{value!r} is no count: write a whole number from {least} on")
        return value

    return read


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueRefused(f"{value!r} is no text: write it in quotes")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueRefused(f"{value!r} is neither true nor false")
    return value


def _same(value: Any) -> Any:  # noqa: ANN401  any value
    return value


DURATION = Kind('"250ms", "10s", "5m", "2h" or "7d"', _duration, written_duration)
SHIFT = Kind(
    '"+30s" or "-5m"',
    lambda value: _quantity(value, UNITS_MS, "+30s"),
    lambda shift_ms: ("-" if shift_ms < 0 else "+") + written_duration(abs(shift_ms)),
)
"""A duration that may be negative."""
SIZE = Kind('bytes, or "64KiB"', _size, _written_size)
SHARE = Kind("a number from 0 to 1", _share, _same)
NUMBER = Kind("a number", _number, _same)
PRIORITY = Kind("a whole number from 0 to 9", _priority, _same)
COUNT = Kind("a whole number from 0 on", _count(0), _same)
COUNT_1 = Kind("a whole number from 1 on", _count(1), _same)
TEXT = Kind("text", _text, _same)
FLAG = Kind("true or false", _flag, _same)


# ---------------------------------------------------------------------------- several values


def range_of(kind: Kind) -> Kind:
    """One value, or the least and the most: `(least, most)`."""

    def read(value: object) -> tuple[int, int]:
        if not isinstance(value, list):
            only = kind.read(value)
            return only, only
        if len(value) != 2:  # noqa: PLR2004  the least and the most
            raise ValueRefused(f"{value!r} is no range: write [least, most], or one value")
        low, high = map(kind.read, value)
        if low > high:
            raise ValueRefused(f"{value!r} is no range: its least is above its most")
        return low, high

    def write(value: tuple[int, int]) -> Any:  # noqa: ANN401  what TOML holds
        low, high = value
        return kind.write(low) if low == high else [kind.write(low), kind.write(high)]

    return Kind(f"{kind.shape}, or [least, most]", read, write)


def list_of(kind: Kind) -> Kind:
    """One value, or a list of them: always a tuple."""

    def read(value: object) -> tuple[Any, ...]:
        values = value if isinstance(value, list) else [value]
        return tuple(map(kind.read, values))

    def write(values: tuple[Any, ...]) -> Any:  # noqa: ANN401  what TOML holds
        written = list(map(kind.write, values))
        return written[0] if len(written) == 1 and not isinstance(written[0], list) else written

    return Kind(f"{kind.shape}, or a list of such", read, write)


def table_of(kind: Kind) -> Kind:
    """Names of one's own, each with a value."""

    def read(value: object) -> tuple[tuple[str, Any], ...]:
        if not isinstance(value, dict):
            raise ValueRefused(f"{value!r} is no table: write {{ name = value, … }}")
        return tuple((name, kind.read(given)) for name, given in value.items())

    def write(values: tuple[tuple[str, Any], ...]) -> Any:  # noqa: ANN401  what TOML holds
        return {name: kind.write(given) for name, given in values}

    return Kind(f"{{ name = {kind.shape}, … }}", read, write)


def one_of(*choices: str) -> Kind:
    """One of a few words."""

    def read(value: object) -> str:
        if value not in choices:
            raise ValueRefused(f"{value!r} is unknown{nearest(str(value), choices)}")
        return str(value)

    return Kind(" or ".join(f'"{choice}"' for choice in choices), read, _same)


def nearest(word: str, known: Iterable[str]) -> str:
    """What to say after an unknown word: `: did you mean …?`, or what is known."""
    words = list(known)
    close = get_close_matches(word, words, n=1, cutoff=0.5)
    if close:
        return f": did you mean {close[0]!r}?"
    return f": write one of {', '.join(words)}" if words else ""
