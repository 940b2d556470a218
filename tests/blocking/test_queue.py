"""A queue's handle: the node's calls, with the name given once."""

import pytest

from p2pmq import QueueNameError
from tests.blocking.kit import node


def test_a_handle_publishes_consumes_and_looks() -> None:
    with node("n") as made:
        queue = made.queue("q")
        assert repr(queue) == "<blocking Queue 'q'>"
        assert queue.declare(replicas=1).replicas == 1
        assert queue.put(1).queue == "q"
        assert queue.publish_many([2, 3]).committed == 2
        assert queue.depth().total == 3
        with (
            queue.consume(prefetch=2, visibility_timeout=10) as messages,
            next(messages) as message,
        ):
            assert message.body == 1
        assert [message.body for message in queue.drain()] == [2, 3]
        with pytest.raises(QueueNameError):
            made.queue("")
