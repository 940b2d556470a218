"""A user's arguments are checked, and come out in the core's units."""

import pytest

from p2pmq import QueueNameError, UsageError
from p2pmq.core.events import Confirmation
from p2pmq.core.packets.delivering import Attach
from p2pmq.node.arguments import (
    MS_MAX,
    PREFETCH_MAX,
    check_prefetch,
    checked_priority,
    confirmation_of,
    key_of,
    mailbox_key,
    place_of,
    reading_key_of,
    to_ms,
)
from p2pmq.wire.schema import fields_of


@pytest.mark.parametrize(
    ("seconds", "ms"),
    [(0, 0), (0.0004, 0), (0.0006, 1), (1.5, 1_500), (10**20, MS_MAX), (float("inf"), MS_MAX)],
)
def test_seconds_become_whole_milliseconds(seconds: float, ms: int) -> None:
    assert to_ms(seconds) == ms


@pytest.mark.parametrize("seconds", [-0.001, -(10**9), float("nan"), float("-inf")])
def test_a_time_that_cannot_be_is_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="give 0 s or more"):
        to_ms(seconds)


def test_the_least_is_said() -> None:
    assert to_ms(0.01, least_ms=10) == 10
    with pytest.raises(UsageError, match=r"0\.01 s or more"):
        to_ms(0, least_ms=10)


def test_the_bounds_are_those_of_the_packets() -> None:
    fields = {field.name: field.kind for field in fields_of(Attach)}
    assert fields["visibility_timeout_ms"].high == MS_MAX
    assert fields["holding"].high == PREFETCH_MAX


def test_a_prefetch_has_bounds() -> None:
    check_prefetch(1)
    check_prefetch(PREFETCH_MAX)
    for prefetch in (0, -1, PREFETCH_MAX + 1):
        with pytest.raises(UsageError, match="prefetch"):
            check_prefetch(prefetch)


def test_a_confirm_has_three_kinds() -> None:
    assert confirmation_of("committed") is Confirmation.COMMITTED
    with pytest.raises(UsageError, match="'committed', 'stored' or 'none'"):
        confirmation_of("COMMITTED")


def test_a_queue_s_partition_is_looked_up_once() -> None:
    assert key_of("q") is key_of("q")


def test_a_mailboxs_dead_letters_can_be_read_by_their_name_and_not_written_to() -> None:
    assert reading_key_of("@depot.dlq") == place_of("@depot.dlq")
    assert reading_key_of("orders.dlq") == key_of("orders.dlq")
    for queue, find in (("@depot.dlq", key_of), ("@depot", reading_key_of)):
        with pytest.raises(QueueNameError, match="is a mailbox's"):
            find(queue)


def test_a_mailbox_is_reached_by_its_nodes_name_alone() -> None:
    with pytest.raises(QueueNameError, match=r"node.send\('depot', …\)"):
        key_of("@depot")
    assert mailbox_key("depot") == place_of("@depot")
    with pytest.raises(UsageError):
        mailbox_key("")
    with pytest.raises(QueueNameError):
        mailbox_key("x" * 255)


@pytest.mark.parametrize("priority", [-1, 10, 0.5, "5"])
def test_a_priority_that_is_not_0_to_9_is_refused(priority: object) -> None:
    assert [checked_priority(number) for number in range(10)] == list(range(10))
    with pytest.raises(UsageError, match="0 to 9"):
        checked_priority(priority)  # type: ignore[arg-type]  # that is the point
