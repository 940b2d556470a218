"""docs/wire.md says what the registry says."""

from pathlib import Path

from p2pmq.core.packets import PACKETS
from p2pmq.wire.errors import REASONS
from p2pmq.wire.table import packet_table, struct_table, structs

PAGE = Path(__file__).resolve().parents[2] / "docs" / "wire.md"


def tables_of(page: str) -> list[str]:
    tables: list[list[str]] = [[]]
    for line in page.splitlines():
        if line.startswith("|"):
            tables[-1].append(line)
        elif tables[-1]:
            tables.append([])
    return ["\n".join(table) for table in tables]


def test_the_page_has_exactly_the_tables_of_the_registry() -> None:
    tables = tables_of(PAGE.read_text(encoding="utf-8"))
    assert packet_table() in tables, "put packet_table() into docs/wire.md"
    assert struct_table() in tables, "put struct_table() into docs/wire.md"


def test_every_packet_and_struct_has_a_row() -> None:
    assert len(packet_table().splitlines()) == len(PACKETS) + 2
    assert len(struct_table().splitlines()) == len(structs()) + 2
    assert "| 22 | Gap |  | `queue: queue name 1…255`, `partition: u16`, `session: bin 8` |" in (
        packet_table()
    )


def test_the_page_explains_every_reason() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"`{reason}`" in page for reason in REASONS)
