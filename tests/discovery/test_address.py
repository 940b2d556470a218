"""Seeds and addresses as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmq.discovery.address import Seed, join_address, parse_seed, split_address
from p2pmq.errors import UsageError


@pytest.mark.parametrize(
    ("text", "kind", "host", "port"),
    [
        ("10.0.0.5:7070", "address", "10.0.0.5", 7070),
        ("[::1]:7070", "address", "::1", 7070),
        ("[FD00:0::5]:1", "address", "fd00::5", 1),
        ("[fe80::1%eth0]:65535", "address", "fe80::1%eth0", 65535),
        ("dns+10.0.0.5:7070", "address", "10.0.0.5", 7070),
        ("bank:7070", "name", "bank", 7070),
        ("dns+queue.default.svc:7070", "name", "queue.default.svc", 7070),
        ("bücher.example.:7070", "name", "xn--bcher-kva.example.", 7070),
        ("my_container:7070", "name", "my_container", 7070),
        ("srv+_p2pmq._tcp.example.org", "service", "_p2pmq._tcp.example.org", 0),
    ],
)
def test_a_seed_is_taken_apart(text: str, kind: str, host: str, port: int) -> None:
    seed = parse_seed(text)
    assert (seed.text, seed.kind, seed.host, seed.port) == (text, kind, host, port)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "port is missing"),
        ("bank", "port is missing"),
        ("[::1]", "port is missing"),
        ("bank:", "not a number"),
        ("bank:http", "not a number"),
        ("bank:٣", "not a number"),
        ("bank:0", "between 1 and 65535"),
        ("bank:65536", "between 1 and 65535"),
        (":7070", "host is missing"),
        ("::1:7070", "needs brackets"),
        ("[bank]:7070", "not an IPv6 address"),
        ("[10.0.0.5]:7070", "not an IPv6 address"),
        ("[]:7070", "not an IPv6 address"),
        ("tcp://bank:7070", "no scheme"),
        ("0.0.0.0:7070", "cannot be dialled"),
        ("[::]:7070", "cannot be dialled"),
        ("224.0.0.251:7070", "cannot be dialled"),
        ("10.0.0:7070", "looks like an IP address"),
        ("10.0.0.256:7070", "looks like an IP address"),
        ("a b:7070", "neither an IP address nor a host name"),
        ("a..b:7070", "neither an IP address nor a host name"),
        ("-a:7070", "neither an IP address nor a host name"),
        (f"{'a' * 64}:7070", "neither an IP address nor a host name"),
        (f"{'a.' * 127}a:7070", "neither an IP address nor a host name"),
        ("srv+_p2pmq._tcp.example.org:7070", "without one"),
        ("srv+", "neither an IP address nor a host name"),
    ],
)
def test_a_malformed_seed_is_refused_with_advice(text: str, advice: str) -> None:
    with pytest.raises(UsageError, match=advice) as caught:
        parse_seed(text)
    assert repr(text) in str(caught.value)


@given(st.text() | st.from_regex(r"\A(dns\+|srv\+)?\[?[a-z0-9:.%-]*\]?:?[0-9]*\Z"))
def test_any_text_is_a_seed_or_a_usage_error(text: str) -> None:
    try:
        seed = parse_seed(text)
    except UsageError:
        return
    assert isinstance(seed, Seed)
    assert seed.host


@given(st.ip_addresses(), st.integers(1, 65535))
def test_an_address_that_was_joined_is_split_into_the_same(host: object, port: int) -> None:
    assert split_address(join_address(str(host), port)) == (str(host), port)
