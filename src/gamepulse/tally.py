"""Counts raw batches into rollup rows: vectorised over all reports of a step, exact, whatever was counted before."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec
import numpy as np
import numpy.typing as npt

from gamepulse import histogram, records
from gamepulse.batch import EVENT_KINDS, QUALITIES
from gamepulse.geography import UNKNOWN_COUNTRY
from gamepulse.records import UNKNOWN as NOT_KNOWN
from gamepulse.rollup import CLIENT, NETWORK, PLACE, SERVER, UNKNOWN, Key, Measures, sketch_of

BAD_EVENTS = frozenset({"connect_failed", "disconnected"})
"""A session with one of these had it bad in that minute."""
MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS
_BUCKET_SPAN = 1 << 16

type Ints = npt.NDArray[np.int64]
type Bounded = Callable[[int, str, str], str]
"""(game_id, dimension, value) → the value, or OTHER when the game has too many."""


class Thresholds(NamedTuple):
    """What is bad for a game's players."""

    rtt_ms: float
    jitter_ms: float
    loss: float


class Total:
    """The players' metrics of one region and country; sums in µs and ppm."""

    __slots__ = ("events", "jitter", "jitter_us_sum", "loss", "loss_ppm_sum", "qualities", "reports", "rtt", "rtt_us_sum")

    def __init__(self) -> None:
        self.reports = self.rtt_us_sum = self.jitter_us_sum = self.loss_ppm_sum = 0
        self.events = [0] * len(EVENT_KINDS)
        self.qualities = [0] * len(QUALITIES)
        self.rtt: histogram.Buckets = {}
        self.jitter: histogram.Buckets = {}
        self.loss: histogram.Buckets = {}

    def merge(self, other: "Total") -> None:
        """Add another total."""
        self.reports += other.reports
        self.rtt_us_sum += other.rtt_us_sum
        self.jitter_us_sum += other.jitter_us_sum
        self.loss_ppm_sum += other.loss_ppm_sum
        self.events = [a + b for a, b in zip(self.events, other.events, strict=True)]
        self.qualities = [a + b for a, b in zip(self.qualities, other.qualities, strict=True)]
        for name in ("rtt", "jitter", "loss"):
            histogram.add(getattr(self, name), getattr(other, name))


class Seen:
    """A session at a place on a day; times in ms since the epoch."""

    __slots__ = ("bad_reports", "events", "first_ms", "labels", "last_ms", "reports", "row")

    def __init__(self, row: asyncpg.Record, labels: Mapping[str, str | None], at_ms: int) -> None:
        self.row = row
        self.labels = labels
        self.first_ms = self.last_ms = at_ms
        self.reports = self.bad_reports = self.events = 0

    def stretch(self, first_ms: int, last_ms: int) -> None:
        self.first_ms, self.last_ms = min(self.first_ms, first_ms), max(self.last_ms, last_ms)


type TotalKey = tuple[int, int, str, str]
"""studio, game, region, country."""
type SeenKey = tuple[int, int, UUID, int, str, str]
"""studio, game, session, day since the epoch, region, server."""


class Tally:
    """What some raw batches add to the rollups, to the players' totals, and to where sessions were seen."""

    def __init__(self) -> None:
        self.reports = 0
        self.rollups: dict[Key, Measures] = {}
        self.totals: dict[TotalKey, Total] = {}
        self.seen: dict[SeenKey, Seen] = {}


def tally(rows: Sequence[asyncpg.Record], thresholds: Mapping[int, Thresholds], bounded: Bounded) -> Tally:
    """Count raw batches (rows of `raw_batch`)."""
    counted = Tally()
    reports = _Reports(rows, thresholds, bounded)
    counted.reports = len(reports.records)
    for dimension_set in (PLACE, CLIENT, NETWORK, SERVER):
        _count_reports(counted, reports, dimension_set)
    _count_totals(counted, reports)
    _see_reports(counted, reports)
    for n, row in enumerate(rows):
        if row["events"] is not None:
            _count_events(counted, reports, n)
        if row["rejected"]:
            _count_rejected(counted, reports, n)
    return counted


class _Interned:
    """Numbers for values, in order of appearance."""

    def __init__(self) -> None:
        self.codes: dict[Any, int] = {}

    def code(self, value: Any) -> int:
        return self.codes.setdefault(value, len(self.codes))

    def values(self) -> list[Any]:
        return list(self.codes)


class _Reports:
    """The reports of some raw batches as columns, and what each batch says of all its reports."""

    def __init__(self, rows: Sequence[asyncpg.Record], thresholds: Mapping[int, Thresholds], bounded: Bounded) -> None:
        self.rows = rows
        self.bounded = bounded
        split = {joined: records.split_labels(joined) for joined in {row["labels"] for row in rows}}
        named = {joined: dict(zip(records.LABELS, labels, strict=True)) for joined, (labels, _) in split.items()}
        self.labels = [named[row["labels"]] for row in rows]
        self.sent_places = [split[row["labels"]][1] for row in rows]
        counts = [len(row["records"]) // records.RECORD.itemsize for row in rows]
        self.records = records.unpack(b"".join([row["records"] for row in rows]))
        self.row = np.repeat(np.arange(len(rows)), counts)
        self.base_ms = np.array([_epoch_ms(row["received_at"]) for row in rows], dtype=np.int64)
        self.at_ms: Ints = self.base_ms[self.row] + self.records["at_ms"]
        self.minute: Ints = self.at_ms // MINUTE_MS
        self._name_places()
        self.session_hash = np.array([hash_session(row["session_id"]) for row in rows], dtype=np.int64)[self.row]
        self.bad = self._bad(thresholds)

    def _name_places(self) -> None:
        """The (region, server) of each report, as codes; regions are bounded here, servers too."""
        places, regions = _Interned(), _Interned()
        self.row_places: list[list[tuple[str, str]]] = []
        flat: list[int] = []
        bases = []
        for row, sent in zip(self.rows, self.sent_places, strict=True):
            named = [self._place(row["game_id"], *place) for place in sent]
            self.row_places.append(named)
            bases.append(len(flat))
            flat.extend(places.code(place) for place in named)
        self.places: list[tuple[str, str]] = places.values()
        region_of_place = np.array([regions.code(region) for region, _ in self.places], dtype=np.int64)
        self.regions: list[str] = regions.values()
        self.place: Ints = np.array(flat, dtype=np.int64)[np.array(bases, dtype=np.int64)[self.row] + self.records["place"]]
        self.region: Ints = region_of_place[self.place] if self.places else self.place

    def _place(self, game_id: int, region: str, server: str | None) -> tuple[str, str]:
        return self.bounded(game_id, "region", region), self.bounded(game_id, "server", server or UNKNOWN)

    def _bad(self, thresholds: Mapping[int, Thresholds]) -> npt.NDArray[np.bool_]:
        limits = np.array([thresholds[row["game_id"]] for row in self.rows], dtype=np.float64).reshape(-1, 3)[self.row]
        scaled = limits * (1e3, 1e3, 1e6)
        bad = np.zeros(len(self.records), dtype=bool)
        for column, name in enumerate(("rtt_us", "jitter_us", "loss_ppm")):
            values = self.records[name]
            bad |= (values != NOT_KNOWN) & (values > scaled[:, column])
        return bad

    def row_dimensions(self, n: int, dimension_set: int) -> tuple[str, ...]:
        """A row's values of a set's dimensions but for region and server, which each report has for itself."""
        labels, country = self.labels[n], self.country(n)
        if dimension_set == PLACE:
            return (country,)
        game_id = self.rows[n]["game_id"]
        if dimension_set == CLIENT:
            platform, build = (self.bounded(game_id, name, labels[name] or UNKNOWN) for name in ("platform", "build"))
            return country, labels["connection"] or UNKNOWN, platform, build
        if dimension_set == NETWORK:
            return country, labels["subdivision"] or UNKNOWN, self.bounded(game_id, "network", labels["network"] or UNKNOWN)
        return ()

    def country(self, n: int) -> str:
        return self.labels[n]["country"] or UNKNOWN_COUNTRY

    def key(self, n: int, dimension_set: int, minute: int, region: str, server: str) -> Key:
        """The key of what row n has at a place in a minute."""
        row, rest = self.rows[n], self.row_dimensions(n, dimension_set)
        dimensions = (region, server) if dimension_set == SERVER else (region, *rest)
        return Key(row["studio_id"], row["game_id"], dimension_set, minute, dimensions)


class _Groups:
    """Reports by group: the first report of each group, and each report's group."""

    def __init__(self, *codes: Ints) -> None:
        combined = np.zeros(len(codes[0]), dtype=np.int64)
        for code in codes:
            low = int(code.min()) if len(code) else 0
            span = int(code.max()) - low + 1 if len(code) else 1
            combined = combined * span + (code - low)
        _, self.first, self.of = np.unique(combined, return_index=True, return_inverse=True)
        self.count = len(self.first)

    def sizes(self, where: npt.NDArray[np.bool_] | None = None) -> Ints:
        return np.bincount(self.of if where is None else self.of[where], minlength=self.count)

    def sums(self, values: npt.NDArray[Any], where: npt.NDArray[np.bool_]) -> Ints:
        return np.bincount(self.of[where], weights=values[where], minlength=self.count).astype(np.int64)

    def words(self, codes: Ints, words: int) -> npt.NDArray[np.int64]:
        """How often each of the words 1..n stands in each group."""
        both = np.bincount(self.of * (words + 1) + codes, minlength=self.count * (words + 1))
        return both.reshape(self.count, words + 1)[:, 1:]

    def buckets(self, values: npt.NDArray[Any], scale: float) -> list[histogram.Buckets]:
        """The histogram of each group's known values; value / scale is in the histogram's unit."""
        known = values != NOT_KNOWN
        indexes = histogram.bucket_indexes(values[known] / scale)
        unique, counts = np.unique(self.of[known] * _BUCKET_SPAN + (indexes + _BUCKET_SPAN // 2), return_counts=True)
        ends = np.searchsorted(unique, np.arange(1, self.count + 1) * _BUCKET_SPAN)
        found = (unique % _BUCKET_SPAN - _BUCKET_SPAN // 2).tolist()
        numbers, starts = counts.tolist(), [0, *ends[:-1]]
        return [dict(zip(found[a:b], numbers[a:b], strict=True)) for a, b in zip(starts, ends, strict=True)]

    def distinct(self, hashes: Ints, where: npt.NDArray[np.bool_] | None = None) -> list[Ints]:
        """The distinct hashes of each group."""
        of, hashes = (self.of, hashes) if where is None else (self.of[where], hashes[where])
        order = np.lexsort((hashes, of))
        of, hashes = of[order], hashes[order]
        new = np.ones(len(of), dtype=bool)
        new[1:] = (of[1:] != of[:-1]) | (hashes[1:] != hashes[:-1])
        of, hashes = of[new], hashes[new]
        return np.split(hashes, np.searchsorted(of, np.arange(1, self.count)))


def _count_reports(counted: Tally, reports: _Reports, dimension_set: int) -> None:
    """All measures of one dimension set."""
    if not len(reports.records):
        return
    interned = _Interned()
    row_codes = np.array(
        [
            interned.code((row["studio_id"], row["game_id"], reports.row_dimensions(n, dimension_set)))
            for n, row in enumerate(reports.rows)
        ],
        dtype=np.int64,
    )
    groups = _Groups(row_codes[reports.row], reports.place if dimension_set == SERVER else reports.region, reports.minute)
    loss = reports.records["loss_ppm"]
    sizes, loss_counts, loss_sums = groups.sizes(), groups.sizes(loss != NOT_KNOWN), groups.sums(loss, loss != NOT_KNOWN)
    qualities = groups.words(reports.records["quality"], len(QUALITIES))
    rtt, jitter = (groups.buckets(reports.records[name], 1e6) for name in ("rtt_us", "jitter_us"))
    sessions, bad_sessions = groups.distinct(reports.session_hash), groups.distinct(reports.session_hash, reports.bad)
    for group, first in enumerate(groups.first.tolist()):
        region, server = reports.places[reports.place[first]]
        measures = Measures()
        measures.reports = int(sizes[group])
        measures.loss_count, measures.loss_ppm_sum = int(loss_counts[group]), int(loss_sums[group])
        measures.qualities = qualities[group].tolist()
        measures.rtt, measures.jitter = rtt[group], jitter[group]
        measures.sessions, measures.bad_sessions = sketch_of(sessions[group]), sketch_of(bad_sessions[group])
        key = reports.key(int(reports.row[first]), dimension_set, int(reports.minute[first]), region, server)
        assert key not in counted.rollups, "two groups with one key: one of them would be lost"
        counted.rollups[key] = measures


def _count_totals(counted: Tally, reports: _Reports) -> None:
    if not len(reports.records):
        return
    interned = _Interned()
    row_codes = np.array(
        [interned.code((row["game_id"], reports.country(n))) for n, row in enumerate(reports.rows)], dtype=np.int64
    )
    groups = _Groups(row_codes[reports.row], reports.region)
    columns = {name: reports.records[name] for name in ("rtt_us", "jitter_us", "loss_ppm")}
    sums = {name: groups.sums(values, values != NOT_KNOWN) for name, values in columns.items()}
    buckets = {name: groups.buckets(values, 1e6) for name, values in columns.items()}
    sizes, qualities = groups.sizes(), groups.words(reports.records["quality"], len(QUALITIES))
    for group, first in enumerate(groups.first.tolist()):
        total = _total(counted, reports, int(reports.row[first]), reports.regions[reports.region[first]])
        total.reports = int(sizes[group])
        total.rtt_us_sum, total.jitter_us_sum, total.loss_ppm_sum = (int(sums[name][group]) for name in columns)
        total.rtt, total.jitter, total.loss = (buckets[name][group] for name in columns)
        total.qualities = qualities[group].tolist()


def _total(counted: Tally, reports: _Reports, n: int, region: str) -> Total:
    row = reports.rows[n]
    return counted.totals.setdefault((row["studio_id"], row["game_id"], region, reports.country(n)), Total())


def _see_reports(counted: Tally, reports: _Reports) -> None:
    """Where and when each session was."""
    if not len(reports.records):
        return
    interned = _Interned()
    row_codes = np.array([interned.code((row["game_id"], row["session_id"])) for row in reports.rows], dtype=np.int64)
    day = reports.at_ms // DAY_MS
    groups = _Groups(row_codes[reports.row], reports.place, day)
    sizes, bad = groups.sizes(), groups.sizes(reports.bad)
    first_ms, last_ms = np.full(groups.count, np.iinfo(np.int64).max), np.zeros(groups.count, dtype=np.int64)
    np.minimum.at(first_ms, groups.of, reports.at_ms)
    np.maximum.at(last_ms, groups.of, reports.at_ms)
    for group, first in enumerate(groups.first.tolist()):
        seen = _seen(counted, reports, int(reports.row[first]), int(first_ms[group]), *reports.places[reports.place[first]])
        seen.stretch(int(first_ms[group]), int(last_ms[group]))
        seen.reports, seen.bad_reports = int(sizes[group]), int(bad[group])


def _seen(counted: Tally, reports: _Reports, n: int, at_ms: int, region: str, server: str) -> Seen:
    row = reports.rows[n]
    key = (row["studio_id"], row["game_id"], row["session_id"], at_ms // DAY_MS, region, server)
    seen = counted.seen.get(key)
    if seen is None:
        seen = counted.seen[key] = Seen(row, reports.labels[n], at_ms)
    return seen


class _StoredEvent(msgspec.Struct):
    at: int
    kind: str
    region: str | None = None
    server: str | None = None


_event_decoder = msgspec.json.Decoder(list[_StoredEvent])


def _count_events(counted: Tally, reports: _Reports, n: int) -> None:
    row = reports.rows[n]
    session_hash = hash_session(row["session_id"])
    for event in _event_decoder.decode(row["events"]):
        region, server = _event_place(reports, n, event)
        kind = EVENT_KINDS.index(event.kind)
        for dimension_set in (PLACE, CLIENT, NETWORK, SERVER):
            key = reports.key(n, dimension_set, event.at // MINUTE_MS, region, server)
            measures = counted.rollups.setdefault(key, Measures())
            measures.events[kind] += 1
            measures.sessions.add((session_hash,))
            if event.kind in BAD_EVENTS:
                measures.bad_sessions.add((session_hash,))
        _total(counted, reports, n, region).events[kind] += 1
        seen = _seen(counted, reports, n, event.at, region, server)
        seen.stretch(event.at, event.at)
        seen.events += 1


def _event_place(reports: _Reports, n: int, event: _StoredEvent) -> tuple[str, str]:
    """Where an event was: as it says, else where the session's reports beside it were."""
    game_id, named = reports.rows[n]["game_id"], reports.row_places[n]
    beside = named[-1] if named else (UNKNOWN, UNKNOWN)
    if event.region is None and event.server is None:
        return beside
    region = reports.bounded(game_id, "region", event.region) if event.region else beside[0]
    return region, reports.bounded(game_id, "server", event.server or UNKNOWN)


def _count_rejected(counted: Tally, reports: _Reports, n: int) -> None:
    """Rejected reports have no time and place that could be believed: they count when and where their batch arrived."""
    region, server = reports.row_places[n][-1] if reports.row_places[n] else (UNKNOWN, UNKNOWN)
    for dimension_set in (PLACE, CLIENT, NETWORK, SERVER):
        key = reports.key(n, dimension_set, int(reports.base_ms[n]) // MINUTE_MS, region, server)
        counted.rollups.setdefault(key, Measures()).rejected += reports.rows[n]["rejected"]


def hash_session(session_id: UUID) -> int:
    """64 bits of a session's id, for distinct counts."""
    high, low = divmod(session_id.int, 1 << 64)  # both halves: one of them may be the same for all of a machine's UUIDs
    return (high ^ low) - (1 << 63)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _epoch_ms(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)
