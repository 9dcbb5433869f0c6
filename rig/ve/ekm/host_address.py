"""Hosts as they are written: addresses and names."""

from __future__ import annotations

import ipaddress
import re


def is_address(host: str) -> bool:
    """Whether a host is an IP address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def canonical(host: str) -> str:
    """Return one spelling of a host: a short address or a name in lower case.

    For localhost it is 127.0.0.1; other names of one host only a resolver knows.
    """
    name = host.removesuffix(".").lower()
    if name == "localhost":
        return "127.0.0.1"
    if not is_address(name):
        return name
    address = ipaddress.ip_address(name)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def overlap(host: str, other: str) -> bool:
    """Whether two servers of this machine at these hosts cannot have one port.

    0.0.0.0 and :: are every address of the machine.
    """
    hosts = {canonical(host), canonical(other)}
    return len(hosts) == 1 or not hosts.isdisjoint({"0.0.0.0", "::"})


def is_host(host: str) -> bool:
    """Whether a text is an IP address or a host name (RFC 1123, 2.1)."""
    labels = host.removesuffix(".").split(".")
    return is_address(host) or (
        len(host) <= 253
        and all(re.fullmatch(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", label) for label in labels)
        and not labels[-1].isdecimal()
    )
