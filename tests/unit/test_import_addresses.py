"""Imports reach the world and nothing inside it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcloud_spawner.datasets.addresses import Reach, against, innermost, networks

INSIDE = (
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.168.1.1",
    "198.18.0.1",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "255.255.255.255",
    "168.63.129.16",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:8.8.8.8",
    "::10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::a00:1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "5f00::1",
)


@pytest.mark.parametrize("address", INSIDE)
def test_what_is_inside_is_not_reached(address: str) -> None:
    assert against(address, 443, Reach()) == "it is not in the public internet"


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111"])
@pytest.mark.parametrize("port", [80, 443, 8443, 9000])
def test_the_world_is_reached(address: str, port: int) -> None:
    assert against(address, port, Reach()) is None


@pytest.mark.parametrize("port", [0, 22, 25, 53, 111, 445, 587])
def test_other_services_than_the_webs_are_not_spoken_to(port: int) -> None:
    assert against("8.8.8.8", port, Reach()) == f"port {port} is not one of the web's"


def test_the_platforms_own_machine_is_not_reached_at_its_public_address() -> None:
    reach = Reach(own={ip_address("8.8.8.8")})
    assert against("8.8.8.8", 443, reach) == "it is a machine of this platform"
    assert against("::ffff:8.8.8.8", 443, reach) == "it is a machine of this platform"


def test_a_network_is_reached_once_an_administrator_opened_it_and_no_other() -> None:
    reach = Reach(allowed=networks(["10.1.2.0/24"]))
    assert against("10.1.2.3", 9000, reach) is None
    assert against("::ffff:10.1.2.3", 9000, reach) is None
    assert against("10.1.3.3", 9000, reach) is not None
    assert against("169.254.169.254", 80, reach) is not None


def test_the_platforms_own_ports_are_not_reached_whatever_is_opened() -> None:
    reach = Reach(
        allowed=networks(["127.0.0.0/8", "10.0.0.0/8"]),
        own={ip_address("10.0.0.5")},
        own_ports={8081},
    )
    for address in ("127.0.0.1", "127.9.9.9", "10.0.0.5", "::ffff:10.0.0.5"):
        assert against(address, 8081, reach) == "it is a part of this platform"
        assert against(address, 9999, reach) is None
    assert against("10.0.0.6", 8081, reach) is None


@given(st.integers(0, 2**32 - 1))
def test_no_wrapping_of_an_address_inside_gets_through(number: int) -> None:
    plain = ip_address(number)
    wrapped = (
        ip_address(int(ip_address("::ffff:0:0")) + number),
        ip_address(int(ip_address("64:ff9b::")) + number),
        ip_address(int(ip_address("2002::")) + (number << 80)),
    )
    for each in wrapped:
        assert innermost(each) == plain
        assert against(str(each), 443, Reach()) is not None


@given(st.ip_addresses())
def test_what_is_reached_is_global(address: object) -> None:
    if against(str(address), 443, Reach()) is None:
        found = ip_address(str(address))
        assert found.is_global
        assert not (found.is_multicast or found.is_loopback or found.is_private)
