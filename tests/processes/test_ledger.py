"""The count of what became of every message: what it is to find, it finds."""

from pathlib import Path

from tests.processes.ledger import Books, Ledger


def test_lost_unexpected_recovered_and_duplicated_messages_are_counted(tmp_path: Path) -> None:
    shop, desk = Ledger(tmp_path / "shop"), Ledger(tmp_path / "desk")
    shop.add("try", ["a", "b", "c", "d", "e"])
    shop.add("committed", ["a", "b"])
    shop.add("stored", ["c"])
    desk.add("got", ["a", "d", "x"])
    desk.add("got", ["a", "c", "a"])
    books = Books.read([tmp_path / "shop", tmp_path / "desk", tmp_path / "never written"])
    assert (books.lost, books.unexpected, books.recovered) == ({"b"}, {"x"}, {"d"})
    assert books.duplicated == 2
    assert str(books) == (
        "5 attempted, 3 acknowledged, 4 delivered, 1 lost, 2 duplicated, 1 unexpected, 1 recovered"
    )


def test_an_entry_that_a_kill_cut_short_is_none_and_harms_no_later_one(tmp_path: Path) -> None:
    path = tmp_path / "shop"
    Ledger(path).add("try", ["a"])
    with path.open("a") as file:
        file.write("try 1.0 b")
    Ledger(path).add("try", ["c"])
    assert Books.read([path]).attempted.keys() == {"a", "c"}


def test_a_message_may_come_again_only_if_something_was_wrong_in_between() -> None:
    books = Books(got={"a": [1.0, 5.0], "b": [7.0, 8.0], "c": [1.0, 2.0]})
    assert books.unexplained([(4.0, 6.0)]) == ["b", "c"]
