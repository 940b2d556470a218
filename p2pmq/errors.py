"""Every error that p2pmq raises on purpose, as one tree.

A user catches `P2PMQError` for all of them, or a leaf for one. Each says what
happened, why, and what to do. A peer's faults never appear here: they are
counted and dropped, for no remote packet may raise in this process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BodyTooLargeError",
    "ClosedNodeError",
    "DataDirectoryError",
    "DataDirectoryLockedError",
    "ForkedNodeError",
    "InsecureListenError",
    "LibraryVersionError",
    "NameLookupError",
    "NameTakenError",
    "NoOwnerError",
    "NoResponderError",
    "NodeFailedError",
    "NotBoundError",
    "NotCommittedError",
    "NotDeclaredError",
    "NotDeletedError",
    "NotPurgedError",
    "NotRedrivenError",
    "NotScheduledError",
    "NotSerializableError",
    "OutboxFullError",
    "OverloadedError",
    "P2PMQError",
    "PortTakenError",
    "QueueFullError",
    "QueueNameError",
    "RemoteError",
    "RequestTimeoutError",
    "ResponderGoneError",
    "StaleReceiptError",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "SubscriptionLimitError",
    "TopicError",
    "UsageError",
    "VersionRefusedError",
]


class P2PMQError(Exception):
    """The root of the tree.

    >>> try:
    ...     raise QueueNameError("the name is empty")
    ... except P2PMQError as error:
    ...     print(type(error).__name__)
    QueueNameError
    """


class UsageError(P2PMQError, ValueError):
    """The caller asked for something that cannot be; nothing was sent."""


class QueueNameError(UsageError):
    """A queue name is empty, over 255 bytes of UTF-8, has control characters, or is a mailbox's."""


class TopicError(UsageError):
    """A topic, a pattern or the name of a responder breaks the rules for them."""


class BodyTooLargeError(UsageError):
    """A body is over the node's `body_bytes_max`: its packed `size`, and the `limit`, in bytes."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"a body of {size:,} bytes is over the limit of {limit:,}: store it elsewhere and "
            "send a reference, or raise body_bytes_max on every node of the mesh"
        )
        self.size = size
        self.limit = limit


class NotSerializableError(UsageError):
    """A body holds an object that msgpack cannot carry; `body_type` is the body's type."""

    def __init__(self, body: object, reason: str) -> None:
        super().__init__(
            f"a body of type {type(body).__name__!r} cannot be packed ({reason}): "
            "send bytes, or None, bool, int, float, str, list and dict of these"
        )
        self.body_type = type(body)


class ClosedNodeError(P2PMQError):
    """The node is not running: not started yet, or closed."""

    def __init__(self, name: str, state: str) -> None:
        super().__init__(
            f"node {name!r} is {state}: use it inside `async with Node(...)` (a blocking one "
            "inside `with`), or between its start() and its close()"
        )
        self.name = name
        self.state = state


class ForkedNodeError(P2PMQError):
    """A blocking node is used in a fork of the process in which it runs."""

    def __init__(self, name: str, started_in: int, used_in: int) -> None:
        super().__init__(
            f"node {name!r} runs in process {started_in}, and process {used_in} is a fork of it, "
            "without the node's thread: start a node after the fork, in each process that uses "
            "one, under a name and a data directory of its own"
        )
        self.name = name


class NodeFailedError(P2PMQError):
    """The node found a fault of its own and stopped; the cause is in `__cause__`."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"node {name!r} stopped at a fault of its own ({reason}), for its state is in doubt: "
            "start it again (what was confirmed is kept), and report this with the log"
        )
        self.name = name


class PortTakenError(P2PMQError):
    """The address to listen on is in use or not ours."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(
            f"cannot listen on {address}: {reason}; stop the process that holds it, "
            "or choose another port (port 0 takes any that is free)"
        )
        self.address = address


class InsecureListenError(UsageError):
    """A node without mesh credentials was told to listen off the loopback interface."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"refusing to listen on {address} without mesh credentials: anybody who reaches it "
            "could read and write every queue; listen on 127.0.0.1, or say insecure=True if the "
            "network itself keeps strangers out"
        )
        self.address = address


class NameTakenError(P2PMQError):
    """Another living node of the mesh has this name: raised by `start()`."""

    def __init__(self, name: str, mesh: str, address: str) -> None:
        super().__init__(
            f"the name {name!r} is taken in mesh {mesh!r} by the node at {address}: "
            "choose another name, or stop that node first"
        )
        self.name = name


class VersionRefusedError(P2PMQError):
    """No node of the mesh speaks a protocol version that this one speaks, too."""

    def __init__(self, name: str, reason: str, address: str) -> None:
        super().__init__(
            f"node {name!r} met nobody, and was refused by the node at {address}: {reason}; run a "
            "release of p2pmq that speaks a version which the mesh speaks"
        )
        self.name = name


class LibraryVersionError(P2PMQError):
    """A library below us is too old to be safe: raised by `start()`."""

    def __init__(self, library: str, found: str, needed: str) -> None:
        super().__init__(
            f"{library} {found} was found, {needed} or newer is needed: upgrade it "
            f"(pip install --upgrade pyzmq brings libzmq)"
        )
        self.found = found


class StoreError(P2PMQError):
    """The disk below a node does not do what it must."""


class DataDirectoryError(StoreError):
    """The data directory cannot be used: read-only, not ours, or not a directory."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"the data directory {path} cannot be used: {reason}; give the node another with "
            "data_dir=, or store='memory' if nothing needs to survive a restart"
        )
        self.path = path


class DataDirectoryLockedError(DataDirectoryError):
    """Another process has the data directory open."""

    def __init__(self, path: str, pid: int | None) -> None:
        holder = f"process {pid}" if pid else "another process"
        super().__init__(path, f"{holder} runs a node on it (one node per directory)")
        self.pid = pid


class StoreFullError(StoreError):
    """No room on the disk: new messages are refused, old ones are served."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"no room left on the disk under {path}: new messages are refused until there is; "
            "free space there, or consume what is queued"
        )
        self.path = path


class StoreCorruptError(StoreError):
    """What was read back is not what was written.

    `bad` are the positions, within what was asked for, of bodies that are lost here;
    it is empty where the store as a whole cannot be opened.
    """

    def __init__(self, path: str, reason: str, bad: Sequence[int] = ()) -> None:
        advice = (
            "other nodes' copies serve in their place; check this disk and this memory"
            if bad
            else "move the directory away and start again: the node comes back empty, under a new "
            "store id, and fetches its copies from the others"
        )
        super().__init__(f"the store under {path} is damaged: {reason}; {advice}")
        self.path = path
        self.bad = tuple(bad)


class NameLookupError(P2PMQError):
    """A peer's name was given that no member has."""


class NotDeclaredError(P2PMQError):
    """A queue could not be given its settings."""

    def __init__(self, queue: str, reason: str) -> None:
        super().__init__(f"queue {queue!r} was not declared: {reason}")
        self.queue = queue
        self.reason = reason


class NotBoundError(P2PMQError):
    """A topic could not be bound to a queue, or parted from it."""

    def __init__(self, pattern: str, queue: str, reason: str) -> None:
        super().__init__(f"the binding of {pattern!r} to queue {queue!r} was not changed: {reason}")
        self.pattern = pattern
        self.queue = queue
        self.reason = reason


class NotPurgedError(P2PMQError):
    """A queue was not purged, or not wholly."""

    def __init__(self, queue: str, reason: str) -> None:
        super().__init__(
            f"queue {queue!r} was not purged: {reason}; check its depth, and try again"
        )
        self.queue = queue
        self.reason = reason


class NotDeletedError(P2PMQError):
    """A queue was not deleted."""

    def __init__(self, queue: str, reason: str) -> None:
        super().__init__(
            f"queue {queue!r} was not deleted, and nothing has changed: {reason}; "
            "check `p2pmq peers`, and try again"
        )
        self.queue = queue
        self.reason = reason


class NotScheduledError(P2PMQError):
    """A schedule could not be made or removed."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the schedule {name!r} was not changed: {reason}")
        self.name = name
        self.reason = reason


class NotRedrivenError(P2PMQError):
    """A redrive has ended early: `redriven` letters are back in `source`, and the others stay."""

    def __init__(self, queue: str, source: str, redriven: int, reason: str) -> None:
        super().__init__(
            f"{redriven:,} dead letters of {queue!r} are in {source!r} again, and then one could "
            f"not be put there: {reason}; it stays, as those after it do: redrive again when that "
            "changes (none comes twice by that)"
        )
        self.queue = queue
        self.source = source
        self.redriven = redriven
        self.reason = reason


class OutboxFullError(P2PMQError):
    """The outbox is at its limit, and did not drain in time, or was not to be waited for.

    `setting` is the limit's name.
    """

    def __init__(
        self, size: int, limit: int, waited_ms: int, setting: str = "outbox_bytes_max"
    ) -> None:
        waited = f" and did not drain within {waited_ms / 1000:.1f} s" if waited_ms else ""
        super().__init__(
            f"the outbox holds {size:,} of {limit:,} bytes{waited}, so that a message was not "
            "taken: the queues' owners are away or slower than this publisher; publish less, "
            f"or raise {setting}"
        )
        self.size = size
        self.limit = limit


class QueueFullError(P2PMQError):
    """The queue is at its limit and rejects new messages: this one is not in the outbox any more.

    Where the queue's owner changed just then, the former one may have taken it.
    """

    def __init__(self, queue: str) -> None:
        super().__init__(
            f"queue {queue!r} is full (declared with overflow='reject'), so that the message was "
            "not taken: consume faster, raise its max_messages or max_bytes, or declare it with "
            "overflow='block' to let publishers wait"
        )
        self.queue = queue


class NotCommittedError(P2PMQError):
    """The confirm did not come in time; the message stays in the outbox and is sent when it can.

    `receipt` tells what holds now: `receipt.stored` is true once it is durable here.
    Only if `dropped` is true it does not stay: the outbox's policy has let go of it.
    `copies` of `wanted` are known to be durable after `waited_ms`.
    """

    def __init__(
        self,
        *,
        receipt: Any,  # noqa: ANN401  errors are below the layer that defines Receipt
        copies: int,
        wanted: int,
        waited_ms: int,
        away: Sequence[str] = (),
        reason: str = "",
        dropped: bool = False,
    ) -> None:
        if not reason:
            reason = f"no answer from {', '.join(away)}" if away else "the queue's owner is away"
        super().__init__(
            f"{copies} of {wanted} copies after {waited_ms / 1000:.1f} s: {reason}; "
            + (
                "the message was dropped and is not sent: publish it again if it still matters"
                if dropped
                else "the message stays in the outbox and is sent when that changes"
            )
        )
        self.dropped = dropped
        self.receipt = receipt
        self.copies = copies
        self.wanted = wanted
        self.waited_ms = waited_ms


class NoOwnerError(P2PMQError):
    """No full node is known that could own the queue."""


class RequestTimeoutError(P2PMQError, TimeoutError):
    """A question was not answered in time: by a peer, or by a blocking node's own thread."""


class StaleReceiptError(P2PMQError):
    """The delivery is over: its consumer has ended, and what it held was given back."""

    def __init__(self, queue: str) -> None:
        super().__init__(
            f"the consumer of queue {queue!r} has ended, and what it held unsettled was given "
            "back: this ack comes too late, the message is delivered again; settle messages "
            "before leaving their loop"
        )
        self.queue = queue


class SubscriptionLimitError(P2PMQError):
    """This node may make no more patterns and responders known to the others."""

    def __init__(self, count: int, size: int, count_max: int, size_max: int) -> None:
        super().__init__(
            f"this node would have {count:,} patterns and responders of {size:,} bytes in all, and "
            f"{count_max:,} of {size_max:,} bytes are allowed, for every other node keeps them in "
            "memory: stop subscriptions that are not needed, or use wildcards"
        )
        self.count = count
        self.size = size


class NoResponderError(P2PMQError):
    """No living node is known to answer requests of this name; nothing was sent, or nothing taken.

    A node that has just started may not know yet who does: the request waited a moment for it.
    """

    def __init__(self, responder: str) -> None:
        super().__init__(
            f"nobody answers requests for {responder!r}: start a node that does, or check the "
            "name (a split network may hide it, then the request can be made again later)"
        )
        self.responder = responder


class OverloadedError(P2PMQError):
    """Every responder that was asked has too much to do already; the request was not taken."""

    def __init__(self, responder: str, node: str) -> None:
        super().__init__(
            f"node {node!r} has as many requests for {responder!r} as it may have, and did not "
            "take one more: send fewer at once, or give the responder more concurrency or nodes"
        )
        self.responder = responder
        self.node = node


class RemoteError(P2PMQError):
    """The handler of a request raised. `kind` is the class of its error, `text` what it says."""

    def __init__(self, responder: str, node: str, kind: str, text: str) -> None:
        super().__init__(
            f"the handler for {responder!r} on node {node!r} raised {kind}: {text or '(no text)'}; "
            "check the log of that node, the fault is there"
        )
        self.responder = responder
        self.node = node
        self.kind = kind
        self.text = text


class ResponderGoneError(P2PMQError):
    """The node that had a request died or restarted; whether it was acted on nobody knows."""

    def __init__(self, responder: str, node: str) -> None:
        super().__init__(
            f"node {node!r} died or restarted while it had a request for {responder!r}: it may "
            "have acted on it or not; send the request again only if twice does no harm"
        )
        self.responder = responder
        self.node = node
