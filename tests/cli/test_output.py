"""What is shown: aligned text in a pipe, JSON lines when asked."""

import json

import pytest

from p2pmq.cli.output import aligned, metered, put_rows, rate, with_rate

ROWS = [{"name": "shop", "ready": 12_345, "zone": ""}, {"name": "b", "ready": 7, "zone": "east"}]
COLUMNS = {"name": "NAME", "ready": "READY", "zone": "ZONE"}


def test_words_stand_to_the_left_and_numbers_to_the_right() -> None:
    lines = list(aligned([["NAME", "N"], ["a", "100"], ["longer", "7"]], [False, True]))
    assert lines == ["NAME      N", "a       100", "longer    7"]


def test_a_pipe_gets_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    put_rows(ROWS, COLUMNS, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "NAME   READY  ZONE",
        "shop  12,345  -",
        "b          7  east",
    ]


def test_no_rows_leave_the_headings(capsys: pytest.CaptureFixture[str]) -> None:
    put_rows([], COLUMNS, as_json=False)
    assert capsys.readouterr().out == "NAME  READY  ZONE\n"


def test_json_has_a_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    put_rows(ROWS, COLUMNS, as_json=True)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ROWS


def test_no_meter_is_shown_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with metered("work", 10) as meter:
        meter.show(5)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("count", "seconds", "told"),
    [(100, 0.0, None), (5_000, 0.006, None), (100, 3.0, 33), (0, 2.0, 0), (20_000, 0.3, 66_700)],
)
def test_a_rate_is_no_finer_than_the_time_it_was_measured_in(
    count: int, seconds: float, told: int | None
) -> None:
    assert rate(count, seconds) == told


def test_a_time_too_short_for_a_rate_is_told_without_one() -> None:
    assert with_rate("5,000 messages", 5_000, 0.006) == "5,000 messages in 0.0 s"
    assert with_rate("5,000 messages", 5_000, 2.5) == "5,000 messages in 2.5 s (2,000 messages/s)"
