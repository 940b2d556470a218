"""On which line of a TOML file something stands, for error messages.

tomllib tells no lines. So the file is cut into its statements (a header, or a
key with its value, which may take several lines): as many lines as tomllib
needs to read one. What each statement says is then asked of tomllib as well.

Invariant: it works on text that tomllib has read as a whole without an error.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

Path = tuple[str | int, ...]
"""Keys and places in arrays, from the top: ("faults", 2, "what")."""


def line_of(text: str, path: Path) -> int:
    """The line (from 1) where the thing at `path` stands, or the nearest thing around it."""
    best, best_length = 1, 0
    for line, found in _places(text):
        common = len(found) if path[: len(found)] == found else 0
        if common > best_length:
            best, best_length = line, common
    return best


def _places(text: str) -> Iterator[tuple[int, Path]]:
    """Each header, key and array item, with its line."""
    header: Path = ()
    seen: dict[Path, int] = {}
    for line, statement, value in _statements(text):
        if statement.lstrip().startswith("["):
            header = _full_header(_path_of(value), statement, seen)
            yield line, header
        else:
            for at in range(1, len(path := _path_of(value)) + 1):
                yield line, header + path[:at]
            yield from _items(line, statement, header + path)


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    lines = text.splitlines()
    start = 0
    for end in range(1, len(lines) + 1):
        statement = "\n".join(lines[start:end])
        try:
            value = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # its value goes on
        if value:
            yield start + 1, statement, value
        start = end


def _path_of(value: Any) -> Path:  # noqa: ANN401  what TOML holds
    """The keys of a statement, which has one at each level (a value that is a table ends it)."""
    path: tuple[str | int, ...] = ()
    while isinstance(value, dict) and len(value) == 1:
        key, value = next(iter(value.items()))
        path += (key,)
        if isinstance(value, list):
            break
    return path


def _full_header(path: Path, statement: str, seen: dict[Path, int]) -> Path:
    """The path of a table: with the numbers of the arrays' items that it is in."""
    full: Path = ()
    for at, key in enumerate(path):
        full += (key,)
        if at == len(path) - 1 and statement.lstrip().startswith("[["):
            seen[full] = seen.get(full, -1) + 1
        if full in seen:
            full += (seen[full],)
    return full


def _items(line: int, statement: str, path: Path) -> Iterator[tuple[int, Path]]:
    """The items of an array that is written over several lines: where each begins."""
    lines = statement.splitlines()
    number, begins = 0, 1
    for end in range(1, len(lines)):
        try:
            value = tomllib.loads("\n".join(lines[:end]) + "\n]")
        except tomllib.TOMLDecodeError:
            continue
        items: Any = value
        for key in path[-len(_path_of(value)) :]:
            items = items[key]
        while lines[begins].strip().startswith("#"):
            begins += 1
        for finished in range(number, len(items)):
            yield line + begins, (*path, finished)
        number, begins = max(number, len(items)), max(begins, end)
