"""The rule for names of queues."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmq.core.names import QUEUE_NAME_BYTES_MAX, check_queue_name, is_mailbox_of_another
from p2pmq.errors import QueueNameError


@pytest.mark.parametrize(
    "name", ["orders", "a b.c/d", "a" * 255, "é" * 127, "队列", "😀", "\u2028"]
)
def test_a_name_of_any_script_passes(name: str) -> None:
    check_queue_name(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("a" * 256, "256 bytes"),
        ("é" * 128, "256 bytes"),
        ("😀" * 64, "256 bytes"),
        ("a\nb", r"U\+000A"),
        ("\0", r"U\+0000"),
        ("a\x7f", r"U\+007F"),
        ("é\x85", r"U\+0085"),
        ("\ud800", r"U\+D800"),
    ],
)
def test_a_bad_name_is_refused_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(QueueNameError, match=why):
        check_queue_name(name)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=300))
def test_only_the_length_in_utf8_counts_for_other_characters(name: str) -> None:
    if len(name.encode()) <= QUEUE_NAME_BYTES_MAX:
        check_queue_name(name)
    else:
        with pytest.raises(QueueNameError):
            check_queue_name(name)


def test_a_mailbox_and_its_dead_letters_are_their_own_nodes_alone() -> None:
    for queue in ("@depot", "@depot.dlq"):
        assert not is_mailbox_of_another(queue, "depot")
        assert is_mailbox_of_another(queue, "till")
        assert is_mailbox_of_another(queue, None)
    assert not is_mailbox_of_another("depot.dlq", "till")
