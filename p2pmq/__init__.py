"""p2pmq: a message queue without a broker.

A `Node` lives inside each service; nodes find each other, share the queues
out among themselves, and keep every confirmed message on disk. For code without
asyncio there is the same in `p2pmq.blocking`.
"""

from p2pmq._version import __version__
from p2pmq.config import (
    LAN,
    WAN,
    Config,
    Limits,
    OutboxPolicy,
    Replication,
    Retry,
    SwimConfig,
    Timing,
)
from p2pmq.errors import (
    BodyTooLargeError,
    ClosedNodeError,
    DataDirectoryError,
    DataDirectoryLockedError,
    ForkedNodeError,
    InsecureListenError,
    LibraryVersionError,
    NameTakenError,
    NodeFailedError,
    NoResponderError,
    NotBoundError,
    NotCommittedError,
    NotDeclaredError,
    NotDeletedError,
    NotPurgedError,
    NotRedrivenError,
    NotScheduledError,
    NotSerializableError,
    OutboxFullError,
    OverloadedError,
    P2PMQError,
    PortTakenError,
    QueueFullError,
    QueueNameError,
    RemoteError,
    RequestTimeoutError,
    ResponderGoneError,
    StaleReceiptError,
    StoreError,
    SubscriptionLimitError,
    TopicError,
    UsageError,
    VersionRefusedError,
)
from p2pmq.node.binding import BindingInfo
from p2pmq.node.message import DeadLetter, Message, MessageBatch
from p2pmq.node.node import Node
from p2pmq.node.queue import Queue
from p2pmq.node.receipts import BulkReceipt, MemberInfo, Overflow, QueueDepth, Receipt
from p2pmq.node.redriving import RedriveReport
from p2pmq.node.replay import Retained
from p2pmq.node.requests import Request, Responder
from p2pmq.node.scheduling import ScheduleInfo
from p2pmq.node.settings import QueueInfo
from p2pmq.node.subscription import Event, Subscription

__all__ = [
    "LAN",
    "WAN",
    "BindingInfo",
    "BodyTooLargeError",
    "BulkReceipt",
    "ClosedNodeError",
    "Config",
    "DataDirectoryError",
    "DataDirectoryLockedError",
    "DeadLetter",
    "Event",
    "ForkedNodeError",
    "InsecureListenError",
    "LibraryVersionError",
    "Limits",
    "MemberInfo",
    "Message",
    "MessageBatch",
    "NameTakenError",
    "NoResponderError",
    "Node",
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
    "OutboxPolicy",
    "Overflow",
    "OverloadedError",
    "P2PMQError",
    "PortTakenError",
    "Queue",
    "QueueDepth",
    "QueueFullError",
    "QueueInfo",
    "QueueNameError",
    "Receipt",
    "RedriveReport",
    "RemoteError",
    "Replication",
    "Request",
    "RequestTimeoutError",
    "Responder",
    "ResponderGoneError",
    "Retained",
    "Retry",
    "ScheduleInfo",
    "StaleReceiptError",
    "StoreError",
    "Subscription",
    "SubscriptionLimitError",
    "SwimConfig",
    "Timing",
    "TopicError",
    "UsageError",
    "VersionRefusedError",
    "__version__",
]
