"""The node for code without asyncio: Flask, Django, scripts, threads.

The names and the semantics are those of `p2pmq.Node`, and so is the
implementation: an asyncio node in a background thread, and calls into it.
"""

from p2pmq.blocking.node import Node
from p2pmq.blocking.queue import Queue
from p2pmq.blocking.serving import Responder
from p2pmq.blocking.subscription import Subscription
from p2pmq.blocking.taking import Batches, Messages

__all__ = ["Batches", "Messages", "Node", "Queue", "Responder", "Subscription"]
