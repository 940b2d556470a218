"""Addresses: what can be dialled, what is told to others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmq.net.address import dialable_addresses, endpoint_of, is_ipv6_endpoint, join


@given(st.ip_addresses(), st.integers(1, 65_535))
def test_every_address_of_one_host_can_be_dialled(ip: object, port: int) -> None:
    address = join(str(ip), port)
    endpoint = endpoint_of(address)
    if endpoint is not None:  # it is none if all hosts or none are meant
        assert endpoint == f"tcp://{address}"
        assert is_ipv6_endpoint(endpoint) == (":" in str(ip))


@given(st.text())
def test_no_text_makes_it_raise(text: str) -> None:
    assert endpoint_of(text) is None or ":" in text


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:1", "[::]:1", "224.0.0.1:1", "1.2.3.4:٣", "1.2.3.4:-1", "1.2.3.4:" + "9" * 99],
)
def test_an_address_of_no_single_host_or_port_cannot_be_dialled(address: str) -> None:
    assert endpoint_of(address) is None


def test_a_socket_bound_to_one_address_is_dialled_there() -> None:
    assert dialable_addresses("10.0.0.5", 7) == ("10.0.0.5:7",)
    assert dialable_addresses("::1", 7) == ("[::1]:7",)


def test_a_socket_bound_to_all_is_dialled_at_each_interface_once_and_loopback_last() -> None:
    four, six = dialable_addresses("0.0.0.0", 7), dialable_addresses("::", 7)
    assert four[-1] == "127.0.0.1:7"
    assert not any(address.startswith("[") for address in four)
    assert set(four) <= set(six)
    assert not any(address.startswith("[fe80") for address in six)
    assert len(set(six)) == len(six)
