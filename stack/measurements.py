"""Reads data/: real measurements as the figures of a report, and the demo's places and servers."""

import csv
import functools
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

DATA = Path(__file__).resolve().parents[1] / "data"
RTT_MIN_MS, RTT_MAX_MS = 0.01, 60_000.0  # what POST /v1/reports takes
OUTLIER_SIGMAS = 3.0  # a pair's maximum is a year's worst stall; what a player may see ends here

Row = Mapping[str, str]
Side = Literal["client", "server"]
# Mirror's bands (Unity): up to 100, 200, 400 ms.
QUALITY_WORDS = ((100.0, "excellent"), (200.0, "good"), (400.0, "fair"))


class Figures(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What one measurement says; None is unknown. `rtt_ms` has no default, so that unknown is sent as null."""

    rtt_ms: float | None
    rtt_min_ms: float | None = None
    rtt_max_ms: float | None = None
    jitter_ms: float | None = None
    jitter_method: str | None = None
    loss: float | None = None
    quality: str | None = None


class Report(Figures, kw_only=True, frozen=True, omit_defaults=True):
    """Figures at a time (`at`: ms) and a place."""

    seq: int
    at: int
    region: str
    server: str
    side: Side


@dataclass(frozen=True, slots=True)
class Server:
    """A game server: where it runs decides which country pairs its players replay."""

    name: str
    region: str
    country: str


@dataclass(frozen=True, slots=True)
class Network:
    """One invented network in one country (a row of demo_geography.csv)."""

    country: str
    access: str
    ipv6: ipaddress.IPv6Network
    ipv4: ipaddress.IPv4Network | None

    def address(self, number: int) -> str:
        """The address of subscriber `number` (from 0): IPv4 for the first ones where the network has it."""
        if self.ipv4 and number < self.ipv4.num_addresses - 2:
            return str(self.ipv4[number + 1])
        return str(self.ipv6[number + 1])


SERVERS = (
    Server("seoul-1", "ap-northeast-2", "KR"),
    Server("seoul-2", "ap-northeast-2", "KR"),
    Server("tokyo-1", "ap-northeast-1", "JP"),
    Server("singapore-1", "ap-southeast-1", "SG"),
    Server("sydney-1", "ap-southeast-2", "AU"),
    Server("mumbai-1", "ap-south-1", "IN"),
    Server("frankfurt-1", "eu-central-1", "DE"),
    Server("frankfurt-2", "eu-central-1", "DE"),
    Server("dublin-1", "eu-west-1", "IE"),
    Server("london-1", "eu-west-2", "GB"),
    Server("stockholm-1", "eu-north-1", "SE"),
    Server("virginia-1", "us-east-1", "US"),
    Server("virginia-2", "us-east-1", "US"),
    Server("montreal-1", "ca-central-1", "CA"),
    Server("sao-paulo-1", "sa-east-1", "BR"),
)
ELSEWHERE = "elsewhere"  # the region of a measured country in which the demo has no server
SERVER_IN = {server.country: server for server in reversed(SERVERS)}
UNMAPPED = Network("ZZ", "unknown", ipaddress.IPv6Network("2001:db8:ffff::/48"), None)  # in no row of the geography


def figures_of_phone(row: Row) -> Figures:
    """One ping round of a phone (a row of mobile_sessions.csv)."""
    rtt_ms = known_ms(row["rtt_avg_ms"])
    jitter_ms = float(row["rtt_stdev_ms"]) if row["rtt_stdev_ms"] else None
    return Figures(
        rtt_ms=rtt_ms,
        rtt_min_ms=known_ms(row["rtt_min_ms"]),
        rtt_max_ms=known_ms(row["rtt_max_ms"]),
        jitter_ms=jitter_ms,
        jitter_method=None if jitter_ms is None else "stddev",
        loss=round(float(row["loss_pct"]) / 100, 6) if row["loss_pct"] else None,
        quality=quality_word(rtt_ms),
    )


def figures_of_pair(row: Row) -> Figures:
    """A year's pings between two countries (a row of country_rtt.csv): mean, minimum and clipped maximum.

    Its deviation is that between many paths, not the jitter of one: jitter and loss stay unknown.
    """
    mean_ms, most_ms = known_ms(row["rtt_mean_ms"]), known_ms(row["rtt_max_ms"])
    if mean_ms is not None and most_ms is not None and row["rtt_stdev_ms"]:
        most_ms = min(most_ms, round(mean_ms + OUTLIER_SIGMAS * float(row["rtt_stdev_ms"]), 2))
    return Figures(rtt_ms=mean_ms, rtt_min_ms=known_ms(row["rtt_min_ms"]), rtt_max_ms=most_ms, quality=quality_word(mean_ms))


def known_ms(cell: str) -> float | None:
    """A cell in ms, clipped to what a report may say; empty or 0 is unknown (a rounded or a failed ping)."""
    value = float(cell or 0)
    return min(value, RTT_MAX_MS) if value >= RTT_MIN_MS else None


def quality_word(rtt_ms: float | None) -> str:
    """The word that a Mirror client would send."""
    if rtt_ms is None:
        return "estimating"
    return next((word for edge, word in QUALITY_WORDS if rtt_ms <= edge), "poor")


def rows(name: str) -> list[dict[str, str]]:
    """The rows of data/`name`."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@functools.cache
def phones() -> dict[str, tuple[Figures, ...]]:
    """The ping rounds of each phone session, in order."""
    sessions: dict[str, list[Figures]] = {}
    for row in rows("mobile_sessions.csv"):
        sessions.setdefault(row["session"], []).append(figures_of_phone(row))
    return {name: tuple(rounds) for name, rounds in sessions.items()}


@functools.cache
def pairs() -> dict[frozenset[str], Figures]:
    """The figures between two countries; the file holds each pair once, whichever side pinged."""
    return {frozenset((row["country_a"], row["country_b"])): figures_of_pair(row) for row in rows("country_rtt.csv")}


@functools.cache
def networks() -> dict[str, tuple[Network, ...]]:
    """The demo's networks by country, in the order of the table that the MMDB is made from."""
    found: dict[str, list[Network]] = {}
    for row in rows("demo_geography.csv"):
        ipv4 = ipaddress.IPv4Network(row["ipv4"]) if row["ipv4"] else None
        network = Network(row["country"], row["access"], ipaddress.IPv6Network(row["ipv6"]), ipv4)
        found.setdefault(row["country"], []).append(network)
    return {country: tuple(known) for country, known in found.items()}


@functools.cache
def network_of(country: str, access: str) -> Network:
    """The country's first network of that access; UNMAPPED where the demo's geography does not reach."""
    return next((network for network in networks().get(country, ()) if network.access == access), UNMAPPED)


@functools.cache
def reachable(server: Server) -> tuple[str, ...]:
    """The countries of the demo's geography with a measured pair to the server's, the quickest first."""
    measured = {country: pairs().get(frozenset((country, server.country))) for country in networks()}
    known = {country: figures.rtt_ms for country, figures in measured.items() if figures and figures.rtt_ms}
    return tuple(sorted(known, key=lambda country: known[country]))
