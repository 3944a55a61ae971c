"""Replays a file of data/ once and whole, a report for each row: what is stored can be checked against the file."""

import itertools
import uuid
from collections.abc import Iterator
from typing import Literal

import msgspec

from stack.measurements import (
    ELSEWHERE,
    SERVER_IN,
    SERVERS,
    Figures,
    Report,
    Row,
    Server,
    figures_of_pair,
    figures_of_phone,
    network_of,
    networks,
    rows,
)
from stack.players import PAIR_SOURCE, PHONE_PLATFORM, PHONE_SOURCE, VERSIONS, Batch, Session

File = Literal["mobile", "country"]
BATCH_REPORTS_MAX = 100  # of the 500 that the service takes: many batches say more than few
SPAN_MS = 240_000  # the rows' times are scaled into the minutes before now


def file_batches(file: File, run: uuid.UUID) -> Iterator[Batch]:
    """All rows of the file as batches of one session each, every `at` relative to now."""
    sessions = phone_sessions(run) if file == "mobile" else country_sessions(run)
    names = (uuid.uuid5(run, f"{file}/batch/{number}") for number in itertools.count())
    for session, address in sessions:
        for reports in itertools.batched(session.reports, BATCH_REPORTS_MAX, strict=False):
            part = msgspec.structs.replace(session, reports=reports)
            yield Batch(0.0, next(names), "ingest_key", address, (part,))


def phone_sessions(run: uuid.UUID) -> Iterator[tuple[Session, str]]:
    """The phone sessions, each with the address it comes from; server and country are made up, in turn."""
    countries = tuple(networks())
    by_session = itertools.groupby(rows("mobile_sessions.csv"), key=lambda row: row["session"])
    for number, (name, group) in enumerate(by_session):
        measured, server = list(group), SERVERS[number % len(SERVERS)]
        length_s = max(float(row["t_s"]) for row in measured) or 1.0
        reports = tuple(
            report(figures_of_phone(row), seq, float(row["t_s"]) / length_s, server) for seq, row in enumerate(measured, 1)
        )
        address = network_of(countries[number % len(countries)], "cellular").address(number)
        yield phone_session(name, reports, run), address


def phone_session(name: str, reports: tuple[Report, ...], run: uuid.UUID) -> Session:
    """The phone session as a player's."""
    return Session(
        session=uuid.uuid5(run, f"mobile/{name}"),
        player=f"phone-{name}",
        platform=PHONE_PLATFORM,
        build=f"{VERSIONS[0]}+{PHONE_SOURCE}",
        connection="cellular",
        match=name,
        reports=reports,
    )


def country_sessions(run: uuid.UUID) -> Iterator[tuple[Session, str]]:
    """One session for each country: a player in `country_a` who visits the server in each `country_b`."""
    by_country: dict[str, list[Row]] = {}
    for row in rows("country_rtt.csv"):
        by_country.setdefault(row["country_a"], []).append(row)
    for number, (country, measured) in enumerate(by_country.items()):
        reports = tuple(
            report(figures_of_pair(row), seq, seq / len(measured), server_of_row(row)) for seq, row in enumerate(measured, 1)
        )
        session = Session(
            session=uuid.uuid5(run, f"country/{country}"),
            player=f"pair-{country}",
            platform="linux",
            build=f"{VERSIONS[0]}+{PAIR_SOURCE}",
            connection="wired",
            match=f"pair-{country}",
            reports=reports,
        )
        yield session, network_of(country, "wired").address(number)


def server_of_row(row: Row) -> Server:
    """The server in the row's `country_b`; one in the region ELSEWHERE where the demo has none."""
    country = row["country_b"]
    return SERVER_IN.get(country) or Server(f"{ELSEWHERE}-{country.lower()}", ELSEWHERE, country)


def report(figures: Figures, seq: int, share: float, server: Server) -> Report:
    """The figures as measured after `share` (0 to 1) of the span that ends now."""
    age_ms = round(SPAN_MS * (1 - share))
    measured = msgspec.structs.asdict(figures)
    return Report(**measured, seq=seq, at=-age_ms, side="client", region=server.region, server=server.name)
