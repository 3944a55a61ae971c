"""Where a client is: from the edge's headers, else from an MMDB file, else unknown. The address goes no further than here."""

from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_network
from socket import AF_INET, AF_INET6, inet_pton
from typing import NamedTuple

import maxminddb
from maxminddb.types import RecordDict

UNKNOWN_COUNTRY = "ZZ"
UNREADABLE = (OSError, maxminddb.InvalidDatabaseError)
"""What is raised when the MMDB file is not there, or is none."""


class Place(NamedTuple):
    """ISO 3166-1 country (ZZ: unknown), ISO 3166-2 subdivision, and network as AS number."""

    country: str
    subdivision: str | None
    network: str | None


class Client(NamedTuple):
    """Who asks: an address, and whether the edge tells where that is."""

    address: str
    is_told: bool


NOWHERE = Place(UNKNOWN_COUNTRY, None, None)
type Headers = Mapping[bytes, bytes]


class Geography:
    """Finds a request's place.

    `proxies`: CIDRs that are believed; `database`: path of an MMDB file or ''; `edge`: as the setting;
    `on_unnamed`: called once, when a proxy on this machine is none of those that are believed. Raises UNREADABLE.
    """

    def __init__(self, proxies: str, database: str, edge: str = "", on_unnamed: Callable[[], None] | None = None) -> None:
        self._proxies = [_Network.of(cidr.strip()) for cidr in proxies.split(",") if cidr.strip()]
        self._has_edge = edge == "cloudfront"
        self._on_unnamed = on_unnamed
        self._reader = maxminddb.open_database(database) if database else None

    def client(self, peer: str, headers: Headers) -> Client:
        """The client behind `peer` (an address) and its headers (lower-case names; of several alike, the last)."""
        if not self._proxies or not _within(peer, self._proxies):
            if self._on_unnamed is not None and b"x-forwarded-for" in headers and _within(peer, _LOOPBACK):
                self._on_unnamed()
                self._on_unnamed = None
            return Client(peer, False)
        viewer = headers.get(b"cloudfront-viewer-address") if self._has_edge else None
        address = _viewer(viewer) if viewer else self._client(peer, headers.get(b"x-forwarded-for"))
        return Client(address, self._has_edge and b"cloudfront-viewer-country" in headers)

    def locate(self, client: Client, headers: Headers) -> Place:
        """Where the client is."""
        return _from_edge(headers) if client.is_told else self._look_up(client.address)

    def _client(self, peer: str, forwarded: bytes | None) -> str:
        """The rightmost address that is not a proxy of ours: those further left could be made up."""
        if forwarded is None:
            return peer
        for address in reversed(forwarded.decode("latin-1").split(",")):
            peer = _without_port(address.strip()) or "unknown"
            if not _within(peer, self._proxies):
                break
        return peer

    def _look_up(self, address: str) -> Place:
        if self._reader is None:
            return NOWHERE
        try:
            record = self._reader.get(address)
        except (ValueError, TypeError):  # TypeError: a NUL in it
            return NOWHERE
        return _from_record(record) if isinstance(record, dict) else NOWHERE


_IPV4_MAPPED = bytes(10) + b"\xff\xff"


class _Network(NamedTuple):
    """A network as numbers: `ipaddress` would take ten times as long to compare an address."""

    size: int
    """Bytes of an address."""
    shift: int
    prefix: int

    @staticmethod
    def of(cidr: str) -> "_Network":
        """Raises ValueError for what is no network."""
        network = ip_network(cidr)
        shift = network.max_prefixlen - network.prefixlen
        return _Network(network.max_prefixlen // 8, shift, int(network.network_address) >> shift)


_LOOPBACK = [_Network.of("127.0.0.0/8"), _Network.of("::1/128")]


def _within(address: str, networks: Sequence[_Network]) -> bool:
    try:
        packed = inet_pton(AF_INET6 if ":" in address else AF_INET, address)
    except (OSError, ValueError):  # ValueError: a NUL in it
        return False
    packed = packed.removeprefix(_IPV4_MAPPED)  # how a peer of a dual-stack socket is named
    number = int.from_bytes(packed)
    return any(len(packed) == one.size and number >> one.shift == one.prefix for one in networks)


def _from_record(record: RecordDict) -> Place:
    country, subdivisions = record.get("country"), record.get("subdivisions")
    code = country.get("iso_code") if isinstance(country, dict) else None
    if not isinstance(code, str):
        return NOWHERE
    first = subdivisions[0] if isinstance(subdivisions, list) and subdivisions else None
    part = first.get("iso_code") if isinstance(first, dict) else None
    number = record.get("autonomous_system_number")
    return Place(code, f"{code}-{part}" if part else None, f"AS{number}" if number else None)


def _without_port(forwarded: str) -> str:
    """The address in an entry of X-Forwarded-For, which may be `192.0.2.1:443`, `[2001:db8::1]:443` or `[2001:db8::1]`."""
    if forwarded.startswith("["):
        return forwarded[1:].partition("]")[0]
    return forwarded.partition(":")[0] if forwarded.count(":") == 1 else forwarded


def _viewer(viewer: bytes) -> str:
    """The address in CloudFront-Viewer-Address: `192.0.2.1:443`, `2001:db8::1:443` (so it writes IPv6) or `[2001:db8::1]:443`."""
    return viewer.decode("latin-1").rpartition(":")[0].strip("[]")


_VIEWER = ("country", "country-region", "asn")


def _from_edge(headers: Headers) -> Place:
    """From CloudFront's viewer headers (CloudFront Developer Guide, "Add CloudFront request headers")."""
    code, part, number = (headers.get(f"cloudfront-viewer-{name}".encode(), b"").decode("latin-1") for name in _VIEWER)
    if len(code) != 2 or not code.isascii() or not code.isalpha():
        return NOWHERE
    return Place(
        code.upper(),
        f"{code.upper()}-{part}" if part.isascii() and part.isalnum() and len(part) <= 3 else None,
        f"AS{number}" if number.isascii() and number.isdigit() and len(number) <= 10 else None,
    )
