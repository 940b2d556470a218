"""Encoders and decoders, one of each for every packet and struct, written from its fields.

They are generated as source and compiled at import: straight code without a
loop over fields is three times as fast as closures over a table, and can be
printed and read (`source_of`). Nothing of a peer's ever gets into the source.

A struct is an array of its fields, a packet one of its number and its fields.
`Bodies` take no place in an array: they are the next frame after the header.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from p2pmq.core.names import check_queue_name
from p2pmq.core.packets.publishing import ID_HASH_BYTES, KEY_HASH_BYTES, Bodies
from p2pmq.core.packets.registry import Packet, Struct
from p2pmq.errors import QueueNameError
from p2pmq.wire.bodies import BodiesError, PackedBodies
from p2pmq.wire.errors import PacketError
from p2pmq.wire.schema import Field, Kind, fields_of

Fields = list[Any]
Frames = Iterator[bytes]
Encoder = Callable[[Any, list[bytes]], Fields]
Decoder = Callable[[Fields, Frames], Any]

SIZE_MAX = 2**32 - 1
"""Bytes of one batch: what one msgpack array of bodies could hold. Sums of it stay below U64."""

RULES = (
    (("first", "last"), "first <= last", "order"),
    (("first", "count"), "first + count <= 2**63 - 1", "bounds"),
    (("count", "size", "stamp"), f"size <= {SIZE_MAX}", "bounds"),
    (("count", "keys"), f"len(keys) in (0, {KEY_HASH_BYTES} * count)", "bounds"),
    (("count", "ids"), f"len(ids) in (0, {ID_HASH_BYTES} * count)", "bounds"),
    (("version_min", "version_max"), "version_min <= version_max", "order"),
)
"""What must hold wherever all of the fields stand in one packet or struct, and the reason
with which the packet is refused otherwise."""


def encoder_of(cls: type[Packet | Struct]) -> Encoder:
    """The function from a packet or struct to its array; it appends bodies to the frames."""
    coder: Encoder = _coder_of(cls, _encoder_source)
    return coder


def decoder_of(cls: type[Packet | Struct]) -> Decoder:
    """The function from an array to a checked packet or struct; it takes bodies off the frames.

    The list that is passed in is used up. Raises PacketError.
    """
    coder: Decoder = _coder_of(cls, _decoder_source)
    return coder


def source_of(cls: type[Packet | Struct]) -> str:
    """The generated code of a packet or struct, to be read."""
    return _encoder_source(cls, {}) + "\n\n" + _decoder_source(cls, {})


_Write = Callable[[type[Packet | Struct], dict[str, type[Struct]]], str]
_coders: dict[tuple[str, type], Any] = {}


def _coder_of(cls: type[Packet | Struct], write: _Write) -> Any:  # noqa: ANN401 - either kind
    """The compiled coder; made once, those of the structs in it before it."""
    key = (write.__name__, cls)
    if key not in _coders:
        structs: dict[str, type[Struct]] = {}
        source = write(cls, structs)
        _coders[key] = _compile(
            source, cls, {name: _coder_of(struct, write) for name, struct in structs.items()}
        )
    return _coders[key]


def _compile(source: str, cls: type[Packet | Struct], inner: dict[str, Any]) -> Any:  # noqa: ANN401 - either kind
    names: dict[str, Any] = {
        **inner,
        **{f"set_{field.name}": getattr(cls, field.name).__set__ for field in fields_of(cls)},
        "cls": cls,
        "new": object.__new__,
        "fail": _fail,
        "check_text": _check_text,
        "check_queue": _check_queue,
        "take_bodies": _take_bodies,
        "PackedBodies": PackedBodies,
        "DEFAULTS": [_wire_form(field.default) for field in _in_array(cls)],
    }
    code = compile(source, f"<coder of {cls.__name__}>", "exec")
    exec(code, names)  # noqa: S102 - the source is made of the registry's names and numbers alone
    return names["coder"]


def _in_array(cls: type[Packet | Struct]) -> list[Field]:
    return [field for field in fields_of(cls) if field.kind.type is not Bodies]


def _wire_form(default: object) -> object:
    return list(default) if isinstance(default, tuple) else default


# ---------------------------------------------------------------------------------------- encoders


def _encoder_source(cls: type[Packet | Struct], structs: dict[str, type[Struct]]) -> str:
    """Trailing fields that equal their defaults are left out: the last that does not decides."""
    lines = ["def coder(value, frames):"]
    fields = _in_array(cls)
    parts = [str(cls.NUMBER)] if issubclass(cls, Packet) else []
    for field in fields_of(cls):
        if field.kind.type is Bodies:
            lines += [
                f"    bodies = value.{field.name}",
                "    assert type(bodies) is PackedBodies, 'stored bodies are read, then sent'",
                "    frames.append(bodies.blob)",
            ]
    parts += [_encoding(f"value.{field.name}", field.kind, structs) for field in fields]
    left = len(parts)
    for field in reversed(fields):
        if field.required:
            break
        lines += [f"    if value.{field.name} != {field.default!r}:"]
        lines += [f"        return [{', '.join(parts[:left])}]"]
        left -= 1
    lines += [f"    return [{', '.join(parts[:left])}]"]
    return "\n".join(lines)


def _encoding(value: str, kind: Kind, structs: dict[str, type[Struct]]) -> str:
    if kind.is_struct:
        return f"{_struct(kind.type, structs)}({value}, frames)"
    if kind.item is not None and kind.item.is_struct:
        return f"[{_struct(kind.item.type, structs)}(item, frames) for item in {value}]"
    return value


def _struct(cls: type[Struct], structs: dict[str, type[Struct]]) -> str:
    name = f"code_{cls.__name__}"
    structs[name] = cls
    return name


# ---------------------------------------------------------------------------------------- decoders


def _decoder_source(cls: type[Packet | Struct], structs: dict[str, type[Struct]]) -> str:
    fields, name = _in_array(cls), cls.__name__
    numbered = int(issubclass(cls, Packet))  # the number of a packet is the first of its array
    lines = ["def coder(fields, frames):"]
    if not numbered:
        lines += ["    if type(fields) is not list:", f"        fail('type', '{name}')"]
    size, required = len(fields) + numbered, sum(field.required for field in fields) + numbered
    lines += [
        f"    if len(fields) != {size}:",
        f"        if len(fields) < {required}:",
        f"            fail('missing-field', '{name}')",
        f"        fields[len(fields):] = DEFAULTS[len(fields) - {numbered}:]",
        f"        del fields[{size}:]",
    ]
    targets = ["_"] * numbered + [field.name for field in fields]
    if targets:
        lines += [f"    [{', '.join(targets)}] = fields"]
    for field in fields:
        where = f"{name}.{field.name}"
        lines += _indent(
            _checks(field.name, field.kind, where, structs, is_queue_name=field.is_queue_name)
        )
    names = {field.name for field in fields}
    for together, condition, reason in RULES:
        if names.issuperset(together):
            lines += [f"    if not {condition}:", f"        fail('{reason}', '{name}')"]
    for field in fields_of(cls):
        if field.kind.type is Bodies:
            assert "count" in names, f"{cls}: how many bodies?"
            lines += [f"    {field.name} = take_bodies(frames, count, '{name}.{field.name}')"]
    lines += ["    made = new(cls)"]
    lines += [f"    set_{field.name}(made, {field.name})" for field in fields_of(cls)]
    return "\n".join([*lines, "    return made"])


def _indent(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


def _checks(
    name: str, kind: Kind, where: str, structs: dict[str, type[Struct]], *, is_queue_name: bool
) -> list[str]:
    """Lines that check the variable `name`, and make it what the packet holds."""
    if kind.is_struct:
        return [f"{name} = {_struct(kind.type, structs)}({name}, frames)"]
    wanted = "list" if kind.type is tuple else kind.type.__name__
    lines = [f"if type({name}) is not {wanted}:", f"    fail('type', '{where}')"]
    if kind.type is bool:
        return lines
    if kind.type is str:
        fits = f"{kind.low} <= len({name}) <= {kind.high} and {name}.isascii()"
        if is_queue_name:
            fits = f"{fits} and {name}.isprintable()"
        check = "check_queue" if is_queue_name else "check_text"
        lines += [f"if not ({fits}):", f"    {check}({name}, {kind.low}, {kind.high}, '{where}')"]
        return lines
    measure = name if kind.type is int else f"len({name})"
    bounds = (
        f"{measure} == {kind.low}"
        if kind.low == kind.high
        else (f"{kind.low} <= {measure} <= {kind.high}")
    )
    lines += [f"if not {bounds}:", f"    fail('bounds', '{where}')"]
    if kind.item is not None:
        lines += _item_checks(name, kind.item, where, structs)
    return lines


def _item_checks(name: str, item: Kind, where: str, structs: dict[str, type[Struct]]) -> list[str]:
    if item.is_struct:
        each = f"[{_struct(item.type, structs)}(item, frames) for item in {name}]"
        return [f"{name} = tuple({each})"]
    assert item.item is None, "a tuple of tuples has no form on the wire"
    checks = _checks("item", item, f"{where}[…]", structs, is_queue_name=False)
    return [f"for item in {name}:", *_indent(checks), f"{name} = tuple({name})"]


# ----------------------------------------------------------------------- what generated code calls


def _fail(reason: str, where: str) -> NoReturn:
    raise PacketError(reason, where)


def _check_text(text: str, low: int, high: int, where: str) -> None:
    if not low <= len(text.encode()) <= high:
        raise PacketError("bounds", where)


def _check_queue(name: str, low: int, high: int, where: str) -> None:
    """`low` is 0 where an empty name stands for all queues."""
    _check_text(name, low, high, where)
    if name:
        try:
            check_queue_name(name)
        except QueueNameError as error:
            raise PacketError("queue-name", where) from error


def _take_bodies(frames: Frames, count: int, where: str) -> PackedBodies:
    """Bodies from the next frame, unpacked, counted and verified: any part may be taken."""
    frame = next(frames, None)
    if frame is None:
        raise PacketError("frames", where)
    bodies = PackedBodies.from_blob(frame)
    try:
        if len(bodies.bodies) != count:
            raise PacketError("bodies", where)
        if bodies.verify():
            raise PacketError("checksum", where)
    except BodiesError as error:
        raise PacketError("bodies", where) from error
    return bodies
