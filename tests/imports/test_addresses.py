"""The address check: what is public, what a setting lets through, and that one answer decides."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunery.errors import InvalidRequest
from tunery.imports.addresses import Gate, Unreachable, is_public

INSIDE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.1",
    "169.254.169.254", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.0.2.1", "198.18.0.1",
    "198.51.100.1", "203.0.113.1", "192.88.99.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::1", "::", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1",
    "2001::1", "2001:db8::1", "2002:7f00:1::", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1",
    "ff02::1",
]  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_no_address_that_leads_inside_is_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    with pytest.raises(Unreachable):
        Gate(resolve=lambda _host, _port: [address]).addresses("h", 443)


@pytest.mark.parametrize("address", ["8.8.8.8", "20.60.128.4", "172.32.0.1", "2606:4700::1111", "2a01:111::1"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert Gate(resolve=lambda _host, _port: [address]).addresses("h", 443) == [address]


@given(st.ip_addresses(v=6))
def test_an_ipv6_address_that_carries_an_ipv4_address_is_never_public(address: ipaddress.IPv6Address) -> None:
    if address.ipv4_mapped or address.sixtofour or address.teredo:
        assert not is_public(address)


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost"])
def test_the_system_s_other_spellings_of_loopback_are_refused(host: str) -> None:
    with pytest.raises(Unreachable):
        Gate().addresses(host, 80)


@pytest.mark.parametrize(
    ("allow", "passes"),
    [
        ("10.0.0.0/8", True),
        ("10.1.2.3", True),
        ("10.1.2.3:9000", True),
        ("data.inside", True),
        ("data.inside:9000", True),
        ("other.inside, DATA.inside", True),
        ("10.1.2.3:9001", False),
        ("data.inside:443", False),
        ("10.2.0.0/16", False),
        ("inside", False),
        ("", False),
    ],
)
def test_a_setting_lets_a_host_a_network_or_one_port_through(allow: str, passes: bool) -> None:
    gate = Gate(allow, resolve=lambda _host, _port: ["10.1.2.3"])
    if passes:
        assert gate.addresses("data.inside", 9000) == ["10.1.2.3"]
    else:
        with pytest.raises(Unreachable):
            gate.addresses("data.inside", 9000)


@pytest.mark.parametrize("allow", ["http://h", "a b", "h:port", "u@h", "10.0.0.0/99", "h/x"])
def test_a_setting_that_is_no_host_and_no_network_is_refused_at_start(allow: str) -> None:
    with pytest.raises(InvalidRequest, match="import_allow"):
        Gate(allow)


def test_of_a_mixed_answer_only_the_public_addresses_are_used() -> None:
    gate = Gate(resolve=lambda _host, _port: ["127.0.0.1", "8.8.8.8", "fe80::1%eth0", "8.8.8.8"])
    assert gate.addresses("h", 443) == ["8.8.8.8"]


def test_an_unknown_name_and_a_refused_address_say_the_same() -> None:
    def unknown(_host: str, _port: int) -> list[str]:
        raise OSError

    said = set()
    for resolve in (unknown, lambda _host, _port: [], lambda _host, _port: ["10.0.0.1"], lambda _h, _p: ["nonsense"]):
        with pytest.raises(Unreachable) as refused:
            Gate(resolve=resolve).addresses("h", 80)
        said.add(refused.value.message)
    assert len(said) == 1
