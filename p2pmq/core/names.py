"""The rule for names of queues, in one place: the publisher's call and the codec ask it.

Control characters are refused because names of queues reach logs, terminals
and metric labels; nothing else is, so a name may have spaces, dots and any script.
"""

from __future__ import annotations

import unicodedata

from p2pmq.errors import QueueNameError

QUEUE_NAME_BYTES_MAX = 255
MAILBOX = "@"
"""What the name of a node's mailbox begins with; the node's own name follows."""
DEAD_LETTERS = ".dlq"
"""What the name of a queue's dead-letter queue ends in; the queue's own name is before it."""
UTF8_LONGER_FROM = (0x80, 0x800, 0x10000)
"""From each of these code points on UTF-8 takes a byte more."""


def mailbox_of(name: str) -> str:
    """The queue that is a node's mailbox."""
    return MAILBOX + name


def is_mailbox_of_another(queue: str, name: str | None) -> bool:
    """Whether it is a mailbox, or holds one's dead letters, and not of the node with this name."""
    own = mailbox_of(name or "")
    return queue.startswith(MAILBOX) and queue not in (own, own + DEAD_LETTERS)


def dead_letters_of(queue: str) -> tuple[str, str]:
    """The queue's dead-letter queue, or "" and why it has none."""
    if queue.endswith(DEAD_LETTERS):
        return "", "dead letters have no dead-letter queue of their own"
    size = sum(map(_utf8_bytes, queue + DEAD_LETTERS))
    if size > QUEUE_NAME_BYTES_MAX:
        return "", (
            f"the name of its dead-letter queue would have {size} bytes of UTF-8, and "
            f"{QUEUE_NAME_BYTES_MAX} are allowed: give queues names of at most "
            f"{QUEUE_NAME_BYTES_MAX - len(DEAD_LETTERS)} bytes"
        )
    return queue + DEAD_LETTERS, ""


def check_queue_name(name: str) -> None:
    """Pass, or raise QueueNameError: empty, over 255 bytes of UTF-8, or with control characters.

    A lone surrogate, which no UTF-8 can carry, is refused as well.
    """
    if name.isascii() and name.isprintable() and 0 < len(name) <= QUEUE_NAME_BYTES_MAX:
        return  # nearly every name, for the price of one look
    if not name:
        raise QueueNameError("a queue name is empty: give it at least one character")
    size = sum(map(_utf8_bytes, name))
    if size > QUEUE_NAME_BYTES_MAX:
        raise QueueNameError(
            f"the queue name {name[:20]!r}… has {size:,} bytes of UTF-8: "
            f"{QUEUE_NAME_BYTES_MAX} are allowed, so shorten it"
        )
    for character in name:
        if unicodedata.category(character) in {"Cc", "Cs"}:
            raise QueueNameError(
                f"the queue name {name!r} has the control character U+{ord(character):04X}: "
                "take it out"
            )


def _utf8_bytes(character: str) -> int:
    """RFC 3629, section 3."""
    code = ord(character)
    return 1 + sum(code >= start for start in UTF8_LONGER_FROM)
