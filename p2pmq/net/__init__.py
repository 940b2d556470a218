"""The transport: frames between nodes, over ZeroMQ.

Invariant: nothing that comes in from the network raises in the loop's thread.
"""

from p2pmq.net.base import Connection, SendResult, Transport, TransportHandler
from p2pmq.net.counters import Counter
from p2pmq.net.transport import ZmqTransport

__all__ = [
    "Connection",
    "Counter",
    "SendResult",
    "Transport",
    "TransportHandler",
    "ZmqTransport",
]
