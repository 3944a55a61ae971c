"""Counts raw batches into blocks of rollups: vectorised over all reports of a step, exact, whatever was counted before."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, NamedTuple

import asyncpg
import msgspec
import numpy as np
import numpy.typing as npt

from gamepulse import histogram, records, sketch
from gamepulse.batch import EVENT_KINDS, QUALITIES
from gamepulse.records import UNKNOWN as NOT_KNOWN
from gamepulse.rollup import (
    CARRIER,
    CLIENT,
    COUNTS,
    EVENTS,
    LOSS_COUNT,
    LOSS_PPM_SUM,
    NETWORK,
    PLACE,
    REJECTED,
    REPORTS,
    SERVER,
    UNKNOWN,
    WORDS,
    Block,
    Cells,
    Ints,
    counted,
    entries,
)

MINUTE_MS = 60_000
_BAD_KINDS = [EVENT_KINDS.index(kind) for kind in ("connect_failed", "disconnected")]
"""A session with one of these had it bad in that minute."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

type Bools = npt.NDArray[np.bool_]
type Bounded = Callable[[int, str, str], str]
"""(game_id, dimension, value) → the value, or OTHER when the game has too many."""
type Combination = tuple[int, int, int, tuple[str, ...]]
"""studio, game, dimension set, values of its dimensions."""


class Thresholds(NamedTuple):
    """What is bad for a game's players."""

    rtt_ms: float
    jitter_ms: float
    loss: float


class Delta(NamedTuple):
    """What some raw batches add to one minute of a game in one dimension set. `start_min`: minutes since the epoch."""

    studio_id: int
    game_id: int
    dimension_set: int
    start_min: int
    block: Block


class Place(NamedTuple):
    """Where something was measured or happened; the labels are bounded."""

    studio_id: int
    game_id: int
    region: str
    server: str


class Interned:
    """Numbers for values, in order of appearance."""

    def __init__(self) -> None:
        self.codes: dict[Any, int] = {}

    def code(self, value: Any) -> int:
        return self.codes.setdefault(value, len(self.codes))

    def all(self, values: Sequence[Any]) -> Ints:
        codes = self.codes
        return np.array([codes.setdefault(value, len(codes)) for value in values], dtype=np.int64)

    def values(self) -> list[Any]:
        return list(self.codes)


class Columns:
    """Raw batches as columns. An *item* is a report, an event, or the refused ones of a part; reports come first.

    A *run* are items that follow each other in one part (row), minute and place: most of what is counted by dimensions needs to be
    looked at once a run.
    """

    def __init__(self, rows: Sequence[asyncpg.Record], thresholds: Mapping[int, Thresholds], bounded: Bounded) -> None:
        self.rows = rows
        self._bounded = bounded
        self.column: dict[str, tuple[Any, ...]] = dict(zip(rows[0].keys(), zip(*rows, strict=True), strict=True))
        self.records = records.unpack(b"".join(self.column["records"]))
        counts = [len(one) // records.RECORD.itemsize for one in self.column["records"]]
        self.reports = len(self.records)
        self.base_ms = np.array([(at - EPOCH) // timedelta(milliseconds=1) for at in self.column["received_at"]], dtype=np.int64)
        self._read_labels()
        row = np.repeat(np.arange(len(rows)), counts)
        at_ms = self.base_ms[row] + self.records["at_ms"]
        place = self._flat[self._place_at[self.text[row]] + self.records["place"]] if self.reports else row
        self._add_items(row, at_ms, place)
        self._find_runs()
        self.bad = self._bad(thresholds)
        self._measure()

    def _read_labels(self) -> None:
        """What the parts say of all their reports. Many say the same: each different text is looked at once."""
        texts, self._places, flat, bases = Interned(), Interned(), list[int](), [0]
        self.places: list[Place] = []
        self.text = texts.all(list(zip(self.column["studio_id"], self.column["game_id"], self.column["labels"], strict=True)))
        self.labels: list[dict[str, Any]] = []
        for studio_id, game_id, joined in texts.values():
            labels, places = records.split_labels(joined)
            named = dict(zip(records.LABELS, labels, strict=True))
            named["country"] = named["country"] or "ZZ"
            self.labels.append({"studio_id": studio_id, "game_id": game_id} | named)
            flat.extend(self._place(studio_id, game_id, region, server) for region, server in places)
            bases.append(len(flat))
        self._flat, self._place_at = np.array(flat, dtype=np.int64), np.array(bases, dtype=np.int64)

    def _place(self, studio_id: int, game_id: int, region: str, server: str | None) -> int:
        region, server = self._bounded(game_id, "region", region), self._bounded(game_id, "server", server or UNKNOWN)
        place = Place(studio_id, game_id, region, server)
        code = self._places.code(place)
        if code == len(self.places):
            self.places.append(place)
        return code

    def _add_items(self, row: Ints, at_ms: Ints, place: Ints) -> None:
        events = list(self._events())
        refused = [n for n, count in enumerate(self.column["rejected"]) if count]
        self.events = len(events)
        self.event_kind = np.array([kind for *_, kind in events], dtype=np.int64)
        self.refused = np.array([self.column["rejected"][n] for n in refused], dtype=np.int64)
        more = np.array(
            [event[:3] for event in events] + [(n, self.base_ms[n], self._beside(n)) for n in refused], dtype=np.int64
        ).reshape(-1, 3)
        self.row: Ints = np.concatenate([row, more[:, 0]])
        self.at_ms: Ints = np.concatenate([at_ms, more[:, 1]])
        self.place: Ints = np.concatenate([place, more[:, 2]])
        self.minute = self.at_ms // MINUTE_MS
        regions = Interned()
        self.region_of_place = regions.all([(place.game_id, place.region) for place in self.places])

    def _events(self) -> list[tuple[int, int, int, int]]:
        """Row, time, place and kind of each event. Where it was: as it says, else where the reports beside it were."""
        return [
            (n, event.at, self._event_place(n, event), EVENT_KINDS.index(event.kind))
            for n, stored in enumerate(self.column["events"])
            if stored is not None
            for event in _event_decoder.decode(stored)
        ]

    def _event_place(self, n: int, event: "_StoredEvent") -> int:
        beside = self._beside(n)
        if event.region is None and event.server is None:
            return beside
        region = event.region or self.places[beside].region
        return self._place(self.column["studio_id"][n], self.column["game_id"][n], region, event.server)

    def _beside(self, n: int) -> int:
        """The last place that a row names."""
        first, after = self._place_at[self.text[n] : self.text[n] + 2].tolist()
        if first < after:
            return int(self._flat[after - 1])
        return self._place(self.column["studio_id"][n], self.column["game_id"][n], UNKNOWN, UNKNOWN)

    def _find_runs(self) -> None:
        new = np.ones(len(self.row), dtype=bool)
        new[1:] = np.logical_or.reduce([one[1:] != one[:-1] for one in (self.row, self.place, self.minute)])
        new[self.reports : self.reports + 1] = True
        new[self.reports + self.events :] = True
        self._run_starts = np.flatnonzero(new)
        self.run = np.cumsum(new) - 1
        self.run_row, self.run_place, self.run_minute = (one[new] for one in (self.row, self.place, self.minute))

    def _bad(self, thresholds: Mapping[int, Thresholds]) -> Bools:
        """Which items make a session's minute bad."""
        limits = np.array([thresholds[game_id] for game_id in self.column["game_id"]], dtype=np.float64).reshape(-1, 3)
        limits = (limits * (1e3, 1e3, 1e6))[self.row[: self.reports]]
        bad = np.zeros(len(self.row), dtype=bool)
        for column, name in enumerate(("rtt_us", "jitter_us", "loss_ppm")):
            values = self.records[name]
            bad[: self.reports] |= (values != NOT_KNOWN) & (values > limits[:, column])
        bad[self.reports : self.reports + self.events] = np.isin(self.event_kind, _BAD_KINDS)
        return bad

    # -- by dimensions ---------------------------------------------------------------------------------------------------------

    def combinations(self, dimension_set: int) -> tuple[list[Combination], Ints]:
        """The different combinations of a set's values, and the one of each run."""
        rows = Interned()
        row_code = rows.all(list(map(itemgetter(*_OF_ROW[dimension_set]), self.labels)))[self.text]
        place = self.run_place if dimension_set == SERVER else self.region_of_place[self.run_place]
        if dimension_set == CARRIER:
            place = np.zeros_like(place)
        _, first, of = np.unique(row_code[self.run_row] * (len(self.places) + 1) + place, return_index=True, return_inverse=True)
        values = rows.values()
        found = [
            self._combination(dimension_set, values[code], self.places[at])
            for code, at in zip(row_code[self.run_row[first]].tolist(), self.run_place[first].tolist(), strict=True)
        ]
        return found, of

    def _combination(self, dimension_set: int, row: tuple[Any, ...], place: Place) -> Combination:
        studio_id, game_id, *rest = row
        if dimension_set == SERVER:
            return studio_id, game_id, dimension_set, (place.region, place.server)
        bounded = (
            self._bounded(game_id, name, value or UNKNOWN) if name in ("platform", "build", "network") else value or UNKNOWN
            for name, value in zip(_OF_ROW[dimension_set][2:], rest, strict=True)
        )
        return studio_id, game_id, dimension_set, (*bounded,) if dimension_set == CARRIER else (place.region, *bounded)

    def deltas(self, combinations: Sequence[Combination], of: Ints, ids: Ints) -> list[Delta]:
        """All measures of one dimension set, by game and minute. `ids`: the dimension_id of each combination."""
        games = Interned()
        game = games.all([one[:3] for one in combinations])[of]
        unique_ids, id_rank = np.unique(ids[of], return_inverse=True)
        first_min = int(self.run_minute.min())
        span = int(self.run_minute.max()) - first_min + 1
        slots, slot = np.unique((game * span + self.run_minute - first_min) * len(unique_ids) + id_rank, return_inverse=True)
        block = self._block(unique_ids[slots % len(unique_ids)], slot)
        together = slots // len(unique_ids)
        starts, named = np.flatnonzero(np.diff(together, prepend=-1)), games.values()
        found = []
        for start, one in zip(together[starts].tolist(), block.split(starts.tolist()), strict=True):
            code, minute = divmod(start, span)
            studio_id, game_id, dimension_set = named[code]
            found.append(Delta(studio_id, game_id, dimension_set, first_min + minute, one))
        return found

    def _block(self, ids: Ints, slot: Ints) -> Block:
        """The measures of each slot; `slot` has each run's."""
        n, items = len(ids), slot[self.run]
        reports, events = items[: self.reports], items[self.reports : self.reports + self.events]
        loss = self.records["loss_ppm"]
        knows_loss = loss != NOT_KNOWN
        counts = np.zeros((n, len(COUNTS)), dtype=np.int64)
        counts[:, REPORTS] = np.bincount(reports, minlength=n)
        counts[:, REJECTED] = np.bincount(items[self.reports + self.events :], weights=self.refused, minlength=n)
        counts[:, LOSS_COUNT] = np.bincount(reports[knows_loss], minlength=n)
        counts[:, LOSS_PPM_SUM] = np.bincount(reports[knows_loss], weights=loss[knows_loss], minlength=n)
        counts[:, EVENTS:WORDS] = _words(events, self.event_kind, len(EVENT_KINDS), n)
        said = self.quality > 0
        counts[:, WORDS:] = _words(reports[said], self.quality[said] - 1, len(QUALITIES), n)
        cells = [counted(reports[known], index, n) for known, index in self.buckets.values()]
        return Block(ids, counts, [*cells, self._sketch(slot, self.run_counts, n), self._sketch(slot, self.run_is_bad, n)])

    def _sketch(self, slot: Ints, runs: Bools, groups: int) -> Cells:
        return entries(slot[runs], self.coupon[self.run_row[runs]], groups)

    def _measure(self) -> None:
        """What is the same for all dimension sets."""
        self.buckets = {}
        for name in ("rtt_us", "jitter_us"):
            known = self.records[name] != NOT_KNOWN
            self.buckets[name] = known, histogram.bucket_indexes(self.records[name][known] / 1e6)
        self.quality = records.quality_codes(self.records)
        self.coupon = sketch.coupons(b"".join([one.bytes for one in self.column["session_id"]]))
        self.run_counts: Bools = self._run_starts < self.reports + self.events
        self.run_is_bad: Bools = np.logical_or.reduceat(self.bad, self._run_starts)


_OF_ROW = {
    PLACE: ("studio_id", "game_id", "country"),
    CLIENT: ("studio_id", "game_id", "country", "connection", "platform", "build"),
    NETWORK: ("studio_id", "game_id", "country", "subdivision", "network"),
    SERVER: ("studio_id", "game_id"),
    CARRIER: ("studio_id", "game_id", "country", "network"),
}
"""What the dimensions of each set take from a row; region and server come from each report's place."""


def _words(of: Ints, code: Ints, words: int, groups: int) -> Ints:
    """How often each group has each word: (groups, words)."""
    found: Ints = np.bincount(of * words + code, minlength=groups * words).reshape(groups, words)
    return found


class _StoredEvent(msgspec.Struct):
    at: int
    kind: str
    region: str | None = None
    server: str | None = None


_event_decoder = msgspec.json.Decoder(list[_StoredEvent])
