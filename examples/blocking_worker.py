"""A web service without asyncio, as one in Flask or Django: requests publish, a thread works.

Under a server that forks (gunicorn, uwsgi) each worker process starts its own node after the fork.
"""

import tempfile
import threading
from collections.abc import Iterable
from urllib.request import urlopen
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

import p2pmq.blocking

REQUESTS = 3


class Quiet(WSGIRequestHandler):
    """A handler that logs nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base's name
        """Leave it out."""


def work(node: p2pmq.blocking.Node, packed: threading.Semaphore) -> None:
    """Process orders until the node closes."""
    for message in node.consume("orders", prefetch=10):
        with message:  # ack; on an exception nack
            print("packing", message.body)
        packed.release()


def main() -> None:
    """Serve a few requests on a thread, and process what they ordered on another."""
    with (
        tempfile.TemporaryDirectory() as directory,
        p2pmq.blocking.Node("shop", mesh="example-web", data_dir=directory) as node,
    ):

        def application(environ: WSGIEnvironment, respond: StartResponse) -> Iterable[bytes]:
            receipt = node.publish("orders", environ["PATH_INFO"].strip("/"))  # fsynced now
            respond("202 Accepted", [("Content-Type", "text/plain")])
            return [receipt.message_id.encode()]

        packed = threading.Semaphore(0)
        worker = threading.Thread(target=work, args=(node, packed))
        worker.start()
        with make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
            serving = threading.Thread(target=server.serve_forever)
            serving.start()
            for number in range(REQUESTS):
                with urlopen(f"http://127.0.0.1:{server.server_port}/order-{number}") as answer:
                    print("accepted", len(answer.read()) > 0)
            server.shutdown()
            serving.join()
        for _ in range(REQUESTS):
            packed.acquire()
        node.close()  # lets the worker finish what it is at, and ends its loop
        worker.join()
        print("done")


main()
