"""Which addresses of webhooks the service sends to: https on the public internet, and nothing else.

A recipient chooses the address, and the service stands inside of somebody's network: whatever is not public is refused
(server-side request forgery, OWASP API7:2023). The name is resolved once for each attempt, every address that it has
must be public, and the connection goes to those, so that a name that changes in between changes nothing.
"""

import asyncio
import ipaddress
import socket
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urlsplit

from telemetry.errors import AddressRefused, DeliveryUnavailable

MOST_CHARACTERS: Final = 2048
_HTTPS: Final = 443
_LEAST_PORT: Final = 1024  # below it only https's own: nobody else's mail or database server is spoken to
_REMEDY: Final = "give an https address that the public internet reaches"
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64: Final = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect: ``host`` of certificate and header, ``path`` with its query."""

    scheme: str
    host: str = field(repr=False)
    port: int = field(repr=False)
    path: str = field(repr=False)

    @property
    def authority(self) -> str:
        """What the Host header says (RFC 9110, 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"https": _HTTPS, "http": 80}[self.scheme]
        return host if self.port == usual else f"{host}:{self.port}"


def parse(url: str, *, loopback: bool = False) -> Target:
    """The parts of an address. ``loopback``: http, and https of any port, are taken for this machine's own.

    Raises:
        AddressRefused: no https address, with a user, a fragment or an odd port, or a literal one that is not public.

    """
    if len(url) > MOST_CHARACTERS or not url.isascii() or not url.isprintable() or " " in url:
        raise AddressRefused("this is not an address of at most 2048 printable characters", remedy=_REMEDY)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise AddressRefused("this is not an address", remedy=_REMEDY) from None
    host = (parts.hostname or "").rstrip(".").lower()
    own = loopback and _is_loopback(host)
    if parts.scheme != "https" and not (own and parts.scheme == "http"):
        raise AddressRefused("a webhook's address begins with https://", remedy=_REMEDY)
    if not host or parts.username is not None or parts.password is not None or parts.fragment:
        raise AddressRefused("an address has a host, and neither user, password nor fragment", remedy=_REMEDY)
    port = port if port is not None else (_HTTPS if parts.scheme == "https" else 80)
    if not own and port != _HTTPS and port < _LEAST_PORT:
        raise AddressRefused("a port is 443, or above 1023", remedy=_REMEDY)
    if not own and (literal := _literal(host)) is not None and not is_public(literal):
        raise AddressRefused("this address is not public", remedy=_REMEDY)
    if not own and _literal(host) is None and "." not in host:
        raise AddressRefused("a name of one word is not public", remedy=_REMEDY)
    return Target(parts.scheme, host, port, _path(parts))


async def resolve(target: Target, *, loopback: bool = False) -> list[str]:
    """The addresses of the target, all of which are public, in the system's order.

    Raises:
        AddressRefused: one of them is not.
        DeliveryUnavailable: it has none now.

    """
    own = loopback and _is_loopback(target.host)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except OSError:
        raise DeliveryUnavailable("the name of a webhook's address is not known now") from None
    addresses = [ipaddress.ip_address(entry[4][0]) for entry in found]
    if not addresses:
        raise DeliveryUnavailable("the name of a webhook's address is not known now")
    if not all(is_public(each) or (own and each.is_loopback) for each in addresses):
        raise AddressRefused("a webhook's name leads to an address that is not public", remedy=_REMEDY)
    return list(dict.fromkeys(map(str, addresses)))


def is_public(address: _Address) -> bool:
    """Whether an address is of the public internet, also where it holds another one (RFC 4291, 3056, 4380, 6052)."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None or any(address in network for network in _NAT64):
            return False
        if address.ipv4_mapped or address.sixtofour or address.teredo or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


def _literal(host: str) -> _Address | None:
    """The address that a host is, as resolvers read it: 127.1 and 0x7f000001 are addresses too."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _is_loopback(host: str) -> bool:
    literal = _literal(host)
    return host == "localhost" if literal is None else literal.is_loopback


def _path(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
