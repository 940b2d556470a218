"""A fork of a process with a node: a clear error there, and nothing happens to the parent's."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.blocking.kit import python

FORKED = """
import gc, json, os, sys
from p2pmq.blocking import Node

folder = sys.argv[1] if len(sys.argv) > 1 else {folder!r}
node = Node("parent", mdns=False, data_dir=folder)
node.start()
node.publish_many("q", range(100))
messages = node.consume("q")
held = next(messages)
queue = node.queue("q")
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    def outcome(call):
        try:
            call()
        except Exception as error:
            return f"{{type(error).__name__}}: {{error}}"
        return "nothing"
    found = dict(
        publish=outcome(lambda: node.publish("q", 1)),
        bulk=outcome(lambda: node.publish_many("q", iter([1]))),
        consume=outcome(lambda: node.consume("q")),
        next=outcome(lambda: next(messages)),
        get=outcome(lambda: messages.get(1)),
        ack=outcome(held.ack),
        nack=outcome(held.nack),
        depth=outcome(queue.depth),
        start=outcome(node.start),
        end_of_iterator=outcome(messages.close),
        close=outcome(node.close),
    )
    del messages, held, queue, node
    gc.collect()
    os.write(writing, json.dumps(found).encode())
    sys.exit(0)  # an end in order: finalizers, atexit and all
os.close(writing)
with os.fdopen(reading) as pipe:
    found = json.loads(pipe.read())
_, status = os.waitpid(child, 0)
held.ack()
bodies = [held.body]
for message in messages:
    with message:
        bodies.append(message.body)
    if len(bodies) == 100:
        break
committed = node.publish_many("q", range(50)).committed
node.flush()
left = node.depth("q").total
node.close()
with Node("parent", mdns=False, data_dir=folder) as again:
    kept = again.depth("q").total
print(json.dumps(dict(found=found, status=status, bodies=bodies, committed=committed,
                      left=left, kept=kept)))
"""

BUSY = """
import json, os, sys, threading
from p2pmq import ForkedNodeError
from p2pmq.blocking import Node

node = Node("parent", mdns=False, store="memory")
node.start()
over = threading.Event()
counts = [0, 0]

def publish():
    while not over.is_set():
        node.publish("q", counts[0])
        counts[0] += 1

def consume():
    for message in node.consume("q"):
        with message:
            counts[1] += 1

threads = [threading.Thread(target=work, daemon=True) for work in (publish, consume)]
for thread in threads:
    thread.start()
statuses = []
for _ in range(20):
    child = os.fork()
    if child == 0:
        try:
            node.publish("q", "from the fork")
        except ForkedNodeError:
            sys.exit(7)
        sys.exit(1)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
over.set()
threads[0].join()
for message in node.drain("q"):
    counts[1] += 1
node.flush()
left = node.depth("q").total
node.close()
print(json.dumps(dict(statuses=sorted(set(statuses)), equal=counts[0] == counts[1], left=left)))
"""

WORKERS = """
import json, multiprocessing
from p2pmq.blocking import Node

def work(node, number):
    with node:
        node.publish_many("q", [f"{number}-{n}" for n in range(10)], timeout=20)

if __name__ == "__main__":
    forking = multiprocessing.get_context("fork")
    with Node("parent", mdns=False, store="memory") as parent:
        workers = []
        for number in range(3):
            at = dict(mdns=False, store="memory", leaf=True, seeds=parent.addresses)
            worker = Node(f"w{number}", **at)
            workers.append(forking.Process(target=work, args=(worker, number)))
        for worker in workers:
            worker.start()
        bodies = []
        for message in parent.consume("q"):
            with message:
                bodies.append(message.body)
            if len(bodies) == 30:
                break
        for worker in workers:
            worker.join(20)
        print(json.dumps(dict(bodies=sorted(bodies), codes=[w.exitcode for w in workers])))
"""


def told_by(ended: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def test_every_call_in_a_fork_says_what_to_do_and_the_parent_goes_on(tmp_path: Path) -> None:
    told = told_by(python(FORKED.format(folder=str(tmp_path))))
    found = told.pop("found")
    assert found.pop("close") == found.pop("end_of_iterator") == "nothing"
    for call, outcome in found.items():
        assert outcome.startswith("ForkedNodeError: node 'parent' runs in process "), call
        assert "start a node after the fork" in outcome
    assert told == {
        "status": 0,
        "bodies": list(range(100)),
        "committed": 50,
        "left": 50,
        "kept": 50,
    }


def test_forks_while_other_threads_use_the_node_neither_hang_nor_disturb_it() -> None:
    assert told_by(python(BUSY)) == {"statuses": [7], "equal": True, "left": 0}


@pytest.mark.slow
def test_nodes_that_are_started_after_the_fork_work_in_their_processes() -> None:
    told = told_by(python(WORKERS))
    assert told["codes"] == [0, 0, 0]
    assert told["bodies"] == sorted(f"{w}-{n}" for w in range(3) for n in range(10))
