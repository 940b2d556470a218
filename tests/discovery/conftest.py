"""Fixtures of the tests of discovery."""

import socket

import pytest

GROUP, LOOPBACK = "239.255.70.70", "127.0.0.1"
DEADLINE_S = 10


@pytest.fixture(scope="session")
def loopback_multicast() -> None:
    """Skip where the kernel does not carry multicast over loopback: then there is no mDNS."""
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            receiver.settimeout(DEADLINE_S)
            receiver.bind(("", 0))
            membership = socket.inet_aton(GROUP) + socket.inet_aton(LOOPBACK)
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOOPBACK))
            sender.sendto(b"heard?", (GROUP, receiver.getsockname()[1]))
            receiver.recv(16)
    except OSError as error:
        pytest.skip(f"no multicast over loopback here: {error}")
