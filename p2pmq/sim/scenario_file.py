"""Scenario files: TOML to a scenario, and back.

The schema is the dataclasses of `scenario`: a key is a field without its unit,
`[publishers]` or `[[publishers]]` are one or several of its list. What does not
fit is refused with file, line and the nearest thing that would.

Invariant: what `dumped` writes, `loaded` reads as the same scenario.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from p2pmq.errors import UsageError
from p2pmq.sim.scenario import FAULTS, LASTING, FaultSpec, Scenario
from p2pmq.sim.scenario_sense import problems
from p2pmq.sim.toml_lines import line_of
from p2pmq.sim.units import Kind, ValueRefused, nearest

_T = TypeVar("_T")
_UNIT = re.compile(r"_(ms|bytes)$|_$")
At = tuple[str | int, ...]


class ScenarioError(UsageError):
    """A scenario file that cannot be played. `line` counts from 1; 0 is the command line."""

    def __init__(self, file: str, line: int, text: str) -> None:
        super().__init__(f"{file}:{line}: {text}" if line else f"{file}: {text}")
        self.file = file
        self.line = line


class _Refused(Exception):  # noqa: N818  it never leaves this module
    """What is wrong, and where in the document."""

    def __init__(self, at: At, text: str) -> None:
        super().__init__(text)
        self.at = at
        self.text = text


# ---------------------------------------------------------------------------------------- reading


def loaded(path: str | Path, overrides: tuple[str, ...] = ()) -> Scenario:
    """The scenario in a file; `overrides` are like `nodes.count=20`, and win over it.

    Raises ScenarioError, or OSError if the file cannot be read.
    """
    return parsed(Path(path).read_text(encoding="utf-8"), str(path), overrides)


def parsed(text: str, file: str = "scenario.toml", overrides: tuple[str, ...] = ()) -> Scenario:
    """The scenario in a text; see `loaded`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(file, _line_in(str(error), text), f"no TOML: {error}") from None
    overridden = [_override(document, override) for override in overrides]
    try:
        return _sound(_table(Scenario, document, ()))
    except _Refused as refused:
        if any(refused.at[: len(at)] == at for at in overridden):
            raise ScenarioError("--set", 0, refused.text) from None
        at = _as_written(document, refused.at)
        raise ScenarioError(file, line_of(text, at), refused.text) from None


def _sound(scenario: Scenario) -> Scenario:
    """The scenario, if it makes sense."""
    for at, wrong in problems(scenario):
        raise _Refused(at, wrong)
    return scenario


def _as_written(document: object, at: At) -> At:
    """A path without the numbers of lists that are written as a single table."""
    path: At = ()
    for part in at:
        if isinstance(document, dict) and isinstance(part, int):
            continue
        path += (part,)
        if isinstance(document, dict):
            document = document.get(str(part))
        elif isinstance(document, list) and isinstance(part, int):
            document = document[part]
    return path


def _line_in(message: str, text: str) -> int:
    found = re.search(r"line (\d+)", message)
    return int(found[1]) if found else max(1, len(text.splitlines()))


def _override(document: dict[str, Any], override: str) -> At:
    """Put `table.key=value` into the document; the value is TOML, or a text without quotes."""
    name, equals, written = override.partition("=")
    path = tuple(part.strip() for part in name.split("."))
    if not equals or not all(path):
        raise ScenarioError("--set", 0, f"{override!r}: write table.key=value")
    try:
        value = tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        value = written.strip()
    table: Any = document
    at: At = ()
    for key in path[:-1]:
        place = _place(table, key, override)
        if isinstance(table, dict):
            table.setdefault(place, {})
        table = table[place]
        at += (place,)
    place = _place(table, path[-1], override)
    table[place] = value
    return (*at, place)


def _place(table: object, key: str, override: str) -> str | int:
    """A key of a table, or a number of an item in a list of tables."""
    if isinstance(table, dict):
        return key
    if not isinstance(table, list):
        raise ScenarioError("--set", 0, f"{override!r}: there is no table before {key!r}")
    if not key.isdecimal() or int(key) >= len(table):
        raise ScenarioError(
            "--set", 0, f"{override!r}: write a number from 0 to {len(table) - 1} for {key!r}"
        )
    return int(key)


def _table(kind: type[_T], given: object, at: At) -> _T:
    """A dataclass from a table."""
    if not isinstance(given, dict):
        name = next(part for part in reversed(at) if isinstance(part, str))
        raise _Refused(at, f"{name!r} is a table: write [{name}]")
    schema = {_key(f): (f, t) for f, t in _fields(kind)}
    read: dict[str, Any] = {}
    for key, value in given.items():
        if key not in schema:
            raise _Refused(
                (*at, key), f"unknown key {key!r} in {_called(at)}{nearest(key, schema)}"
            )
        field, hint = schema[key]
        read[field.name] = _value(hint, value, (*at, key))
    for key, (field, _) in schema.items():
        if field.default is MISSING and field.name not in read:
            raise _Refused(at, f"{_called(at)} needs the key {key!r}")
    if kind is FaultSpec:
        _check_keys_of_fault(given, at)
    return kind(**read)


def _value(hint: Any, value: object, at: At) -> Any:  # noqa: ANN401  any field
    found = _kind_of(hint)
    if found is not None:
        try:
            return found.read(value)
        except ValueRefused as refused:
            raise _Refused(at, f"{at[-1]} = {refused}") from None
    table = _table_of(hint)
    if get_origin(hint) is tuple:
        several = value if isinstance(value, list) else [value]
        return tuple(_table(table, one, (*at, n)) for n, one in enumerate(several))
    return _table(table, value, at)


def _check_keys_of_fault(given: dict[str, Any], at: At) -> None:
    what = given["what"]
    needs, may, _ = FAULTS[what]
    lasts = ("for",) if what in LASTING else ()
    for key in needs:
        if key not in given:
            raise _Refused(at, f"the fault {what!r} needs the key {key!r}")
    known = ("at", "what", *needs, *may, *lasts)
    for key in given:
        if key not in known:
            takes = ", ".join((*needs, *may, *lasts)) or "none but `at`"
            raise _Refused(
                (*at, key), f"the fault {what!r} has no key {key!r}: its keys are {takes}"
            )


def _called(at: At) -> str:
    words = [str(part) for part in at if isinstance(part, str)]
    return f"[{'.'.join(words)}]" if words else "the scenario"


# ------------------------------------------------------------------------------------- the schema


def _fields(kind: type) -> tuple[tuple[Field[Any], Any], ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple((f, hints[f.name]) for f in fields(kind))


def _key(field: Field[Any]) -> str:
    return _UNIT.sub("", field.name)


def _kind_of(hint: Any) -> Kind | None:  # noqa: ANN401  any annotation
    return next((extra for extra in get_args(hint) if isinstance(extra, Kind)), None)


def _table_of(hint: Any) -> Any:  # noqa: ANN401  an annotation, and then a dataclass
    if is_dataclass(hint):
        return hint
    inner = get_args(hint)[0]
    assert is_dataclass(inner), hint
    return inner


def keys_of(kind: type) -> dict[str, tuple[str, str]]:
    """For the docs: each key of a table, how its value is written, and its default."""
    found: dict[str, tuple[str, str]] = {}
    for field, hint in _fields(kind):
        value_kind = _kind_of(hint)
        if value_kind is not None:
            found[_key(field)] = (value_kind.shape, _default(field, value_kind))
        else:
            found[_key(field)] = ("tables" if get_origin(hint) is tuple else "a table", "")
    return found


def _default(field: Field[Any], kind: Kind) -> str:
    if field.default is MISSING:
        return "needed"
    return "" if field.default in (None, (), "") else _toml(kind.write(field.default))


# ---------------------------------------------------------------------------------------- writing


def dumped(scenario: Scenario, comment: str = "") -> str:
    """The scenario as a file; what has its default is left out. `comment` stands above."""
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    plain, tables = _parts(scenario)
    lines += ["", *plain] if lines else plain
    for name, value, several in tables:
        for one in value if several else (value,):
            lines += ["", *_written_table(name, one, several=several)]
    return "\n".join(lines) + "\n"


def _parts(table: Any) -> tuple[list[str], list[tuple[str, Any, bool]]]:  # noqa: ANN401  any dataclass
    """The lines of the plain values of a table, and the tables in it."""
    plain: list[str] = []
    tables: list[tuple[str, Any, bool]] = []
    for field, hint in _fields(type(table)):
        value = getattr(table, field.name)
        if value == field.default:
            continue
        kind = _kind_of(hint)
        if kind is not None:
            plain.append(f"{_key(field)} = {_toml(kind.write(value))}")
        elif value is not None:
            tables.append((_key(field), value, get_origin(hint) is tuple))
    return plain, tables


def _written_table(name: str, table: Any, *, several: bool) -> list[str]:  # noqa: ANN401  any dataclass
    plain, tables = _parts(table)
    lines = [f"[[{name}]]" if several else f"[{name}]", *plain]
    for inner, value, inner_several in tables:
        for one in value if inner_several else (value,):
            lines += ["", *_written_table(f"{name}.{inner}", one, several=inner_several)]
    return lines


def _toml(value: Any) -> str:  # noqa: ANN401  what TOML holds
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_bare(key)} = {_toml(v)}' for key, v in value.items())} }}"
    return json.dumps(value, ensure_ascii=False)


def _bare(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
