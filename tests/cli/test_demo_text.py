"""The demo's text."""

from pathlib import Path

from p2pmq.cli.demo_text import demo_lines


def test_a_named_file_gives_its_lines_and_no_more_than_asked(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"one\r\ntwo\n\xff\n")
    assert demo_lines(file, 10) == ([b"one", b"two", b"\xff"], str(file))
    assert demo_lines(file, 2)[0] == [b"one", b"two"]


def test_without_a_file_there_are_as_many_lines_as_asked() -> None:
    lines, source = demo_lines(None, 200_000)
    assert len(lines) == 200_000
    assert source
