"""The registry as Markdown, for `docs/wire.md`; a test keeps the page up to date.

python -c "from p2pmq.wire.table import packet_table; print(packet_table())"
"""

from __future__ import annotations

from p2pmq.core.packets import PACKETS, Packet, Struct
from p2pmq.core.packets.publishing import Bodies
from p2pmq.wire.schema import Field, Kind, fields_of

INTS = {
    (0, 2**8 - 1): "u8",
    (0, 2**16 - 1): "u16",
    (0, 2**32 - 1): "u32",
    (0, 2**64 - 1): "u64",
    (1, 2**63 - 1): "seq",
    (0, 2**42): "ms",
}


def packet_table() -> str:
    """One row for each packet, by number."""
    rows = [
        f"| {number} | {cls.__name__} | {'yes' if cls.BULK else ''} | {_fields(cls)} |"
        for number, cls in sorted(PACKETS.items())
    ]
    return "\n".join(["| no. | packet | bulk | fields |", "| ---: | --- | --- | --- |", *rows])


def struct_table() -> str:
    """One row for each struct that any packet holds, by name."""
    rows = [
        f"| {cls.__name__} | {_fields(cls)} |"
        for cls in sorted(structs(), key=lambda cls: cls.__name__)
    ]
    return "\n".join(["| struct | fields |", "| --- | --- |", *rows])


def structs() -> list[type[Struct]]:
    """Every struct that is in a packet, or in such a struct."""
    found: list[type[Struct]] = []
    todo: list[type[Packet | Struct]] = list(PACKETS.values())
    while todo:
        for field in fields_of(todo.pop()):
            kind = field.kind.item or field.kind
            if kind.is_struct and kind.type not in found:
                found.append(kind.type)
                todo.append(kind.type)
    return found


def _fields(cls: type[Packet | Struct]) -> str:
    return ", ".join(map(_field, fields_of(cls)))


def _field(field: Field) -> str:
    text = f"{field.name}: {_kind(field.kind)}"
    if field.is_queue_name:
        text = text.replace("text", "queue name")
    return f"`{text}`" if field.required else f"`{text} = {_default(field.default)}`"


def _kind(kind: Kind) -> str:
    if kind.item is not None:
        return f"[{_kind(kind.item)}] × {kind.low}…{kind.high}"
    if kind.type is int:
        return INTS.get((kind.low, kind.high), f"int {kind.low}…{kind.high}")
    if kind.type is str:
        return f"text {kind.low}…{kind.high}"
    if kind.type is bytes:
        return f"bin {kind.low}" if kind.low == kind.high else f"bin {kind.low}…{kind.high}"
    return "bodies" if kind.type is Bodies else kind.type.__name__


def _default(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex() if any(value) else f"{len(value)} zeros" if value else "no bytes"
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else "[]" if value == () else str(value)
