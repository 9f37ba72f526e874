"""Which addresses an import may connect to: those of the public internet, and what the settings allow besides.

Classes as in IANA's special-purpose registries. What carries another address inside it (IPv4-mapped, 6to4, Teredo,
NAT64) is refused whatever it carries.
"""

import ipaddress
import socket
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

import msgspec

from tunery.errors import FileImportFailed, InvalidRequest
from tunery.imports.links import HOST

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str, int], Iterable[str]]
"""Host and port to addresses; raises OSError or UnicodeError where there are none."""

MOST_ADDRESSES = 4
"""Of one name that are tried, one after the other."""
GLOBAL_6 = ipaddress.IPv6Network("2000::/3")
NOT_PUBLIC: tuple[IPNetwork, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.0.0.0/24",  # protocol assignments, Oracle's metadata service among them
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # Azure's host agent: a public number that leads inside
        "2001::/23",  # Teredo, ORCHID and other protocol assignments
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)


class Unreachable(FileImportFailed):
    """Nobody answers there that an import may talk to. One message for all reasons: the difference would be a map."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"Couldn't reach {host}: the name is unknown, nothing answers there, or its address isn't public. "
            "Check the link; whoever runs this service can allow a host inside with the setting import_allow."
        )


class Allowed(msgspec.Struct, frozen=True):
    """One entry of `import_allow`: a host by name, or a network; any port unless one is given."""

    name: str | None
    network: IPNetwork | None
    port: int | None

    def covers(self, host: str, port: int, address: IPAddress) -> bool:
        if self.port is not None and self.port != port:
            return False
        return host == self.name if self.network is None else address in self.network


class Gate:
    """Resolves a name once and lets through only addresses that may be connected to."""

    def __init__(self, allow: str = "", *, resolve: Resolver | None = None) -> None:
        """Raises InvalidRequest for an entry of `allow` (comma-separated) that is neither name nor network."""
        self._allowed = [_entry(text.strip()) for text in allow.split(",") if text.strip()]
        self._resolve = resolve or system_resolver

    def addresses(self, host: str, port: int) -> list[str]:
        """Numeric addresses to try in this order. Raises Unreachable where there are none."""
        try:
            found = [ipaddress.ip_address(text) for text in self._resolve(host, port)]
        except (OSError, UnicodeError, ValueError) as error:
            raise Unreachable(host) from error
        passed = [str(address) for address in found if self._may_connect(host, port, address)]
        if not passed:
            raise Unreachable(host)
        return list(dict.fromkeys(passed))[:MOST_ADDRESSES]

    def _may_connect(self, host: str, port: int, address: IPAddress) -> bool:
        return is_public(address) or any(entry.covers(host, port, address) for entry in self._allowed)


def system_resolver(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public(address: IPAddress) -> bool:
    if any(address in network for network in NOT_PUBLIC):
        return False
    if isinstance(address, ipaddress.IPv6Address):
        return address in GLOBAL_6
    return address.is_global and not address.is_multicast


def _entry(text: str) -> Allowed:
    try:
        return Allowed(None, ipaddress.ip_network(text, strict=False), None)
    except ValueError:
        pass
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or not HOST.fullmatch(host) or parts.netloc != text or "@" in text:
        raise InvalidRequest(
            f"Settings: import_allow holds {text!r}. Write host names, addresses or networks, separated by commas; "
            "a name or an address may end in :port.",
            param="import_allow",
        )
    try:
        return Allowed(None, ipaddress.ip_network(host), port)
    except ValueError:
        return Allowed(host, None, port)
