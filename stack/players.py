"""Plays data/ as players on game servers: who sends which batch when, the same sequence for the same seed."""

import heapq
import itertools
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import msgspec

from stack.measurements import (
    SERVERS,
    Figures,
    Network,
    Report,
    Server,
    Side,
    network_of,
    networks,
    pairs,
    phones,
    reachable,
)

SEATS = 12  # a server
TICK_S = 5.0  # a player sends a batch every tick
REPORTS_A_TICK = 2
SERVER_TICKS = 2  # a server measures each of its players once in so many ticks
NEAR_COUNTRIES = 5

# Chances, each per tick unless said.
PHONES = 0.35  # of all players
PLAYS_NEARBY = 0.8  # of all country-pair players
CONNECT_FAILS = 0.05  # per attempt
DROPS = 0.006
STAYS_AWAY = 0.3  # per drop
COMPLAINS_GOOD, COMPLAINS_BAD = 0.0005, 0.02
BAD_RTT_MS, BAD_LOSS = 200.0, 0.05  # where players begin to complain

# Labels. A phone session was measured without a country: the build says that the one given is made up.
VERSIONS = ("1.4.2", "1.5.0")
PHONE_SOURCE, PAIR_SOURCE = "phone.synthetic-country", "country-pair"
PHONE_PLATFORM = "android"  # the phones of the measurement
PAIR_PLATFORMS = ("windows", "windows", "windows", "macos", "linux")

KeyName = Literal["ingest_key", "server_key"]


class Event(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Something that happened to a session at `at` (ms)."""

    seq: int
    at: int
    kind: Literal["connect_failed", "connected", "disconnected", "reconnected", "complaint"]
    region: str
    server: str
    reason: str | None = None


class Session(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What a batch says of one session."""

    session: uuid.UUID
    player: str
    platform: str
    build: str
    connection: str
    match: str
    reports: tuple[Report, ...] = ()
    events: tuple[Event, ...] = ()

    def shifted(self, by_ms: int) -> "Session":
        """The same, later: every `at` moved by so much."""
        reports = tuple(msgspec.structs.replace(report, at=report.at + by_ms) for report in self.reports)
        events = tuple(msgspec.structs.replace(event, at=event.at + by_ms) for event in self.events)
        return msgspec.structs.replace(self, reports=reports, events=events)


@dataclass(frozen=True, slots=True)
class Batch:
    """One request: its `at`s are ms relative to the moment it is due."""

    due_s: float
    batch_id: uuid.UUID
    key: KeyName
    address: str
    sessions: tuple[Session, ...]

    @property
    def report_count(self) -> int:
        """Reports and events."""
        return sum(len(session.reports) + len(session.events) for session in self.sessions)


@dataclass(frozen=True, slots=True)
class Tick:
    """What one seat says in one tick: as the player's client, and through the game server."""

    client: Session | None = None
    address: str = ""
    server: Session | None = None


@dataclass(frozen=True, slots=True)
class Player:
    """Who takes a seat: where from, with which measurements, and which data they are (`source`)."""

    network: Network
    measured: Iterable[Figures]
    platform: str
    source: str


@dataclass(slots=True)
class Visit:
    """One player's stay on one server; numbers what each side says of it."""

    server: Server
    identity: Session
    address: str
    measured: Iterable[Figures]
    next_seq: dict[Side, int] = field(default_factory=lambda: {"client": 0, "server": 0})

    def seq(self, side: Side) -> int:
        """The next number of that side."""
        self.next_seq[side] += 1
        return self.next_seq[side]

    def report(self, figures: Figures, age_ms: int, side: Side = "client") -> Report:
        """The figures as measured `age_ms` before the batch is due."""
        return Report(
            **msgspec.structs.asdict(figures),
            seq=self.seq(side),
            at=-age_ms,
            region=self.server.region,
            server=self.server.name,
            side=side,
        )

    def says(self, figures: Iterable[Figures] = (), kind: str | None = None, reason: str | None = None) -> Tick:
        """The client's word: its figures, the last one measured now, and perhaps an event."""
        measured = tuple(figures)
        spacing_ms = int(TICK_S * 1000) // REPORTS_A_TICK
        ages = range((len(measured) - 1) * spacing_ms, -1, -spacing_ms)
        reports = tuple(self.report(one, age_ms) for one, age_ms in zip(measured, ages, strict=True))
        events = self.event("client", kind, reason)
        return Tick(client=msgspec.structs.replace(self.identity, reports=reports, events=events), address=self.address)

    def is_told(self, figures: Iterable[Figures] = (), kind: str | None = None, reason: str | None = None) -> Session:
        """The game server's word on the player."""
        reports = tuple(self.report(one, 0, "server") for one in figures)
        return msgspec.structs.replace(self.identity, reports=reports, events=self.event("server", kind, reason))

    def event(self, side: Side, kind: str | None, reason: str | None) -> tuple[Event, ...]:
        """The event as a batch holds it: none or one."""
        if kind is None:
            return ()
        event = {"kind": kind, "seq": self.seq(side), "at": 0, "region": self.server.region, "server": self.server.name}
        return (msgspec.convert(event | {"reason": reason}, Event),)


def batches(seed: int, run: uuid.UUID) -> Iterator[Batch]:
    """All players of all servers, without end, in the order in which their batches are due.

    `run` only names sessions and batches: another run is the same play by other names, so nothing of it is a duplicate.
    """
    return heapq.merge(*(server_batches(server, seed, run) for server in SERVERS), key=lambda batch: batch.due_s)


def server_batches(server: Server, seed: int, run: uuid.UUID) -> Iterator[Batch]:
    """One server's players, each at its own moment of every tick, then the server's own word."""
    seats = [seat_ticks(server, number, seed, run) for number in range(SEATS)]
    gateway = network_of(server.country, "hosting").address(SERVERS.index(server))
    offset_s = SERVERS.index(server) * TICK_S / SEATS / len(SERVERS)
    names = (uuid.uuid5(run, f"{server.name}/batch/{number}") for number in itertools.count())
    for tick_number in itertools.count():
        told = []
        begins_s = tick_number * TICK_S + offset_s
        for number, tick in enumerate(next(seat) for seat in seats):
            if tick.client:
                due_s = begins_s + number * TICK_S / SEATS
                yield Batch(due_s, next(names), "ingest_key", tick.address, (tick.client,))
            if tick.server:
                told.append(tick.server)
        if told:
            yield Batch(begins_s + TICK_S * (SEATS - 0.5) / SEATS, next(names), "server_key", gateway, tuple(told))


def seat_ticks(server: Server, seat: int, seed: int, run: uuid.UUID) -> Iterator[Tick]:
    """Players who sit on one seat of a server, one after the other, with pauses."""
    dice = Random(f"{seed}/{server.name}/{seat}")
    yield from itertools.repeat(Tick(), dice.randrange(6))
    for number in itertools.count():
        yield from visit_ticks(new_visit(server, seat, number, dice, run), dice)
        yield from itertools.repeat(Tick(), dice.randrange(1, 9))


def visit_ticks(visit: Visit, dice: Random) -> Iterator[Tick]:
    """One stay: connect (or fail to), play, perhaps complain, perhaps drop, and come back or not."""
    if dice.random() < CONNECT_FAILS:
        yield visit.says(kind="connect_failed", reason="timeout")
        return
    yield visit.says(kind="connected")
    for number, played in enumerate(itertools.batched(visit.measured, REPORTS_A_TICK, strict=False)):
        if dice.random() < DROPS:
            # The client falls silent; only the game server can tell.
            yield Tick(server=visit.is_told(kind="disconnected", reason="timeout"))
            yield from itertools.repeat(Tick(), dice.randrange(1, 8))
            if dice.random() < STAYS_AWAY:
                return
            yield visit.says(kind="reconnected")
        said = visit.says(played, *complaint(played[-1], dice))
        seen = visit.is_told(played[-1:]) if number % SERVER_TICKS == 0 else None
        yield Tick(said.client, said.address, seen)


def complaint(figures: Figures, dice: Random) -> tuple[str, str] | tuple[()]:
    """Kind and reason of a complaint, if the player makes one now: likelier on a bad connection."""
    is_bad = (figures.rtt_ms or 0) > BAD_RTT_MS or (figures.loss or 0) > BAD_LOSS
    return ("complaint", "lag") if dice.random() < (COMPLAINS_BAD if is_bad else COMPLAINS_GOOD) else ()


def new_visit(server: Server, seat: int, number: int, dice: Random, run: uuid.UUID) -> Visit:
    """The seat's next player: one of three regulars, on a phone or from a measured country."""
    reports = REPORTS_A_TICK * dice.randrange(12, 97)  # one to eight minutes
    player = phone_player(server, reports, dice) if dice.random() < PHONES else pair_player(server, reports, dice)
    regular = dice.randrange(3)
    identity = Session(
        session=uuid.uuid5(run, f"{server.name}/session/{seat}/{number}"),
        player=f"{server.name}.{seat}.{regular}",
        platform=player.platform,
        build=f"{dice.choice(VERSIONS)}+{player.source}",
        connection=player.network.access,
        match=f"{server.name}.match-{number}",
    )
    address = player.network.address((SERVERS.index(server) * SEATS + seat) * 3 + regular)
    return Visit(server, identity, address, player.measured)


def phone_player(server: Server, reports: int, dice: Random) -> Player:
    """A stretch of a real phone session; its country is made up (one near the server), and labelled so."""
    rounds = dice.choice(list(phones().values()))
    begin = dice.randrange(max(1, len(rounds) - reports))
    country = dice.choice(reachable(server)[:NEAR_COUNTRIES])
    network = dice.choice([one for one in networks()[country] if one.access == "cellular"])
    return Player(network, rounds[begin : begin + reports], PHONE_PLATFORM, PHONE_SOURCE)


def pair_player(server: Server, reports: int, dice: Random) -> Player:
    """A player in a measured country, mostly a near one; a pair is an aggregate, so every report repeats it."""
    countries = reachable(server)
    country = dice.choice(countries[:NEAR_COUNTRIES] if dice.random() < PLAYS_NEARBY else countries)
    network = dice.choice([one for one in networks()[country] if one.access == "wired"])
    measured = itertools.repeat(pairs()[frozenset((country, server.country))], reports)
    return Player(network, measured, dice.choice(PAIR_PLATFORMS), PAIR_SOURCE)
