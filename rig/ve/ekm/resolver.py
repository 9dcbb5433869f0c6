"""Look up key managers' host names at the lab's DNS servers (EKM-4).

No other server is asked.

The primary server is asked first; the alternate when the primary does not answer or fails. A host
that is an address is never looked up. An address once found is used on when no server answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import dns.exception
import dns.nameserver
import dns.resolver

from hsm.ekm.client import Resolve
from hsm.ekm.protocol.errors import EkmUnavailable
from rig.ve.ekm.host_address import is_address

SERVER_SECONDS = 1.0
"""How long one server is waited for."""
_RECORDS = ("A", "AAAA")


class DnsServer(Protocol):
    """A DNS server as the lab file has it."""

    @property
    def address(self) -> str:
        """Its IP address."""

    @property
    def port(self) -> int:
        """Its UDP and TCP port."""


def resolver(
    servers: Sequence[DnsServer], server_seconds: float = SERVER_SECONDS
) -> Resolve | None:
    """Return a function that looks names up at one or two servers.

    Without servers it is None: the system's own lookup.
    """
    return Resolver(servers, server_seconds).addresses if servers else None


class Resolver:
    """Looks host names up at given servers, in their order."""

    def __init__(
        self, servers: Sequence[DnsServer], server_seconds: float = SERVER_SECONDS
    ) -> None:
        """Prepare; ``server_seconds`` is the timeout of each server."""
        self._servers = [f"{server.address} port {server.port}" for server in servers]
        self._dns = dns.resolver.Resolver(configure=False)
        self._dns.nameservers = [
            dns.nameserver.Do53Nameserver(server.address, server.port) for server in servers
        ]
        self._dns.timeout = server_seconds
        self._dns.lifetime = server_seconds * len(servers)
        self._known: dict[str, tuple[str, ...]] = {}

    def addresses(self, host: str) -> tuple[str, ...]:
        """Return the addresses of a host.

        Raises EkmUnavailable when they cannot be found.
        """
        if is_address(host):
            return (host,)
        try:
            addresses = self._look_up(host)
        except dns.resolver.NXDOMAIN:
            raise self._unknown(host, "there is no such name") from None
        except dns.exception.DNSException as error:
            if host in self._known:
                return self._known[host]
            raise self._unknown(host, _reason(error)) from None
        if not addresses:
            raise self._unknown(host, "the name has no address")
        self._known[host] = addresses
        return addresses

    def _look_up(self, host: str) -> tuple[str, ...]:
        addresses: list[str] = []
        for kind in _RECORDS:
            answer = self._dns.resolve(host, kind, search=False, raise_on_no_answer=False)
            addresses += [record.to_text() for record in answer.rrset or ()]
            if addresses:
                break
        return tuple(addresses)

    def _unknown(self, host: str, reason: str) -> EkmUnavailable:
        return EkmUnavailable(
            f"The key manager's host name {host} could not be looked up at the DNS servers "
            f"{' and '.join(self._servers)}: {reason}; correct host or dns in the lab file, or "
            "write an address."
        )


def _reason(error: dns.exception.DNSException) -> str:
    if isinstance(error, dns.exception.Timeout):
        return "no answer in time"
    if isinstance(error, dns.resolver.NoNameservers):
        return "none of them knew"
    return f"it is no name that can be looked up ({type(error).__name__})"
