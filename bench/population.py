"""Made-up players with the data's distributions, as the raw batches that their clients' reports are stored as (for bench.width).

From data/: round trips of a player at home are drawn around the measured mean of the pair of countries (its deviation, within its
least and most), those of a phone are its measured rounds. From stack/: where servers are, how many players one holds, how many
play on phones and near by. Assumed: countries by Zipf's law in the order of their measured pings, networks within a country too
(sizes on the Internet follow it: Adamic & Huberman 2002, Glottometrics 3), 5,000 networks in all, three current builds for nine of
ten players.
"""

import csv
import functools
import itertools
import random
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import numpy as np

from gamepulse import records
from gamepulse.batch import Report
from stack.measurements import DATA, SERVERS, pairs, phones
from stack.players import PAIR_PLATFORMS, PHONES, PLAYS_NEARBY, SEATS

NETWORKS = 5_000
NEAR_REGIONS = 4
SUBDIVISIONS = 6
"""Of a country, in which its three largest networks are; the others are in one."""
BUILDS = [f"1.{n}.0" for n in range(30)]
CURRENT = 0.9
VARIANTS = 24
"""Different sets of measurements of a pair of countries."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Part(tuple[Any, ...]):
    """A session's part of a batch, as the aggregator reads it."""

    FIELDS = ("xid", "received_at", "studio_id", "game_id", "rejected", "session_id", "labels", "match", "player", "records",
        "events", "commit_span")  # fmt: skip

    def keys(self) -> tuple[str, ...]:
        """As asyncpg's records have them."""
        return self.FIELDS


class Player(NamedTuple):
    """Who plays where."""

    country: str
    region: str
    labels: tuple[str | None, ...]
    is_phone: bool


def zipf(count: int) -> list[float]:
    """Cumulated weights of 1/rank."""
    return list(itertools.accumulate(1 / (1 + n) for n in range(count)))


@functools.cache
def countries() -> list[str]:
    """The measured countries, those with most pings first."""
    pings: Counter[str] = Counter()
    with (DATA / "country_rtt.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name in ("country_a", "country_b"):
                if row[name] != "None":
                    pings[row[name]] += int(row["pings"])
    return [country for country, _ in pings.most_common()]


@functools.cache
def networks() -> dict[str, list[str]]:
    """The networks of each country: more where there are more players, one at least."""
    total = zipf(len(countries()))[-1]
    numbers = itertools.count(4_200_000_000)  # private AS numbers (RFC 6996)
    return {
        country: [f"AS{next(numbers)}" for _ in range(max(round(NETWORKS / total / rank), 1))]
        for rank, country in enumerate(countries(), 1)
    }


@functools.cache
def near(country: str) -> list[tuple[str, str]]:
    """(region, its country) with a measured pair, the quickest first."""
    places = {(server.region, server.country) for server in SERVERS}
    measured = {place: pairs().get(frozenset((country, place[1]))) for place in sorted(places)}
    known = {place: one.rtt_ms for place, one in measured.items() if one is not None and one.rtt_ms is not None}
    return sorted(known, key=lambda place: known[place])[:NEAR_REGIONS]


def players(count: int, seed: int) -> Iterator[tuple[Player, str]]:
    """So many players, and the country of the servers that each plays on."""
    dice = random.Random(seed)
    named = [country for country in countries() if near(country)]
    weights = zipf(len(named))
    servers = max(count // SEATS // len({server.region for server in SERVERS}), 1)
    for country in dice.choices(named, cum_weights=weights, k=count):
        region, there = near(country)[0] if dice.random() < PLAYS_NEARBY else dice.choice(near(country))
        of_country = networks()[country]
        rank = dice.choices(range(len(of_country)), cum_weights=zipf_of(len(of_country)))[0]
        subdivision = f"{country}-{dice.randrange(SUBDIVISIONS) if rank < 3 else rank % SUBDIVISIONS}"
        is_phone = dice.random() < PHONES
        build = dice.choice(BUILDS[-3:]) if dice.random() < CURRENT else dice.choice(BUILDS[:-3])
        platform = "android" if is_phone else dice.choice(PAIR_PLATFORMS)
        labels = (country, subdivision, of_country[rank], "cellular" if is_phone else "wired", platform, build)
        yield Player(country, f"{region} {region}-{dice.randrange(servers)}", labels, is_phone), there


zipf_of = functools.cache(zipf)


@functools.cache
def measured(country: str, there: str, reports: int, spread_ms: int) -> list[bytes]:
    """Packed reports of players between two countries, on a phone when `there` is empty; one each `spread_ms`, the last now."""
    rng = np.random.default_rng(int.from_bytes((country + there).encode()))
    rounds = list(itertools.chain.from_iterable(phones().values()))
    made = []
    for _ in range(VARIANTS):
        if there:
            pair = pairs()[frozenset((country, there))]
            assert pair.rtt_ms is not None
            least, most = pair.rtt_min_ms or 0.01, pair.rtt_max_ms or pair.rtt_ms
            drawn = np.clip(rng.normal(pair.rtt_ms, max(most - pair.rtt_ms, 0.01) / 3, reports), least, max(most, least))
            figures: list[dict[str, Any]] = [
                {"rtt_ms": round(float(one), 2), "jitter_ms": round(float(rng.gamma(2, 1.5)), 2)} for one in drawn
            ]
        else:
            begin = int(rng.integers(len(rounds) - reports))
            figures = [msgspec.structs.asdict(one) for one in rounds[begin : begin + reports]]
        made.append(records.columns([Report(seq=n, at=-n * spread_ms, region="r", **one) for n, one in enumerate(figures)]))
    return [bytes(one) for one in records.pack(made, [[0] * reports] * VARIANTS, [0] * VARIANTS)]


def parts(count: int, reports: int, seed: int, received_at: datetime, spread_ms: int = 1_000, sessions: int = 1) -> Iterator[Part]:
    """One part each of so many players, `reports` reports in it; `sessions` parts with other sessions of each."""
    dice = random.Random(seed + 1)
    for player, there in players(count, seed):
        labels = records.join_labels(player.labels, [tuple(player.region.split(" "))])  # type: ignore[list-item]  # region, server
        variants = measured("", "", reports, spread_ms) if player.is_phone else measured(player.country, there, reports, spread_ms)
        for _ in range(sessions):
            session = uuid.UUID(int=dice.getrandbits(128), version=4)
            yield Part((0, received_at, 1, 1, 0, session, labels, None, None, dice.choice(variants), None, None))
