"""The demo's count: what the ledgers say, and nothing else."""

from dataclasses import astuple
from pathlib import Path

import pytest

from p2pmq.cli.demo_tally import ENTRY_BYTES, Books, Ledger, entry_of, numbered

LINES = [numbered(number, b"text %d" % number) for number in range(1, 6)]


@pytest.fixture
def books(tmp_path: Path) -> Books:
    Ledger(tmp_path / "shop").add(LINES)
    return Books(LINES, tmp_path / "shop", [tmp_path / "bank", tmp_path / "depot"])


def counts(books: Books) -> tuple[int, ...]:
    """Published, processed, lost, duplicated, damaged, unconfirmed."""
    return astuple(books.tally())


def test_lines_shared_out_between_consumers_are_neither_lost_nor_duplicated(
    books: Books, tmp_path: Path
) -> None:
    Ledger(tmp_path / "bank").add(LINES[:2])
    Ledger(tmp_path / "depot").add(LINES[2:])
    assert books.look() == (5, 5, 5)
    assert counts(books) == (5, 5, 0, 0, 0, 0)


def test_what_nobody_processed_is_lost_and_what_two_did_is_duplicated(
    books: Books, tmp_path: Path
) -> None:
    Ledger(tmp_path / "bank").add(LINES[:3])
    Ledger(tmp_path / "depot").add(LINES[1:4])
    books.look()
    assert counts(books) == (5, 4, 1, 2, 0, 0)


def test_a_line_with_another_text_is_damaged_and_its_own_is_lost(
    books: Books, tmp_path: Path
) -> None:
    Ledger(tmp_path / "bank").add([*LINES[:4], numbered(5, b"another text")])
    books.look()
    assert counts(books) == (5, 4, 1, 0, 1, 0)


@pytest.mark.parametrize("cut", range(1, ENTRY_BYTES - 1))
def test_an_entry_that_a_kill_cut_short_is_none_wherever_it_was_cut(
    books: Books, tmp_path: Path, cut: int
) -> None:
    (tmp_path / "bank").write_bytes(entry_of(LINES[0]) + entry_of(LINES[1])[:cut])
    assert books.look() == (5, 1, 1)
    Ledger(tmp_path / "bank").add(LINES[1:])
    assert books.look() == (5, 5, 5)


def test_entries_are_read_once_while_the_ledger_grows(books: Books, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "depot")
    for line in LINES:
        ledger.add([line])
        books.look()
    assert books.look() == (5, 5, 5)


def test_a_line_that_was_processed_and_not_confirmed_is_not_lost_and_not_good(
    tmp_path: Path,
) -> None:
    Ledger(tmp_path / "shop").add(LINES[:4])
    Ledger(tmp_path / "bank").add(LINES)
    books = Books(LINES, tmp_path / "shop", [tmp_path / "bank"])
    books.look()
    assert counts(books) == (4, 5, 0, 0, 0, 1)
    assert not books.tally().is_good
