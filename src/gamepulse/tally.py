"""Counts raw batches into blocks of rollups: vectorised over all reports of a step, exact, whatever was counted before."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, starmap
from typing import Any, NamedTuple

import asyncpg
import msgspec
import numpy as np
import numpy.typing as npt

from gamepulse import histogram, records, sketch
from gamepulse.batch import EVENT_KINDS, QUALITIES
from gamepulse.origins import Combination, Interned, Origins
from gamepulse.records import UNKNOWN as NOT_KNOWN
from gamepulse.rollup import (
    COUNTS,
    EVENTS,
    LOSS_COUNT,
    LOSS_PPM_SUM,
    REJECTED,
    REPORTS,
    SETS,
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


class Columns:
    """Raw batches as columns. An *item* is a report, an event, or the refused ones of a part; reports come first.

    A *run* are items that follow each other in one part (row), minute and place: most of what is counted by dimensions needs to be
    looked at once a run.
    """

    def __init__(self, rows: Sequence[asyncpg.Record], thresholds: Mapping[int, Thresholds], origins: Origins) -> None:
        self.rows = rows
        self.origins = origins
        self.column: dict[str, tuple[Any, ...]] = dict(zip(rows[0].keys(), zip(*rows, strict=True), strict=True))
        self.records = records.unpack(b"".join(self.column["records"]))
        counts = [len(one) // records.RECORD.itemsize for one in self.column["records"]]
        self.reports = len(self.records)
        self.base_ms = np.array([(at - EPOCH) // timedelta(milliseconds=1) for at in self.column["received_at"]], dtype=np.int64)
        said = zip(self.column["studio_id"], self.column["game_id"], self.column["labels"], strict=True)
        labels, places = zip(*starmap(origins.of, said), strict=True)
        self._last_place = [of_part[-1] for of_part in places]
        first = np.cumsum([0, *map(len, places)])
        row = np.repeat(np.arange(len(rows)), counts)
        place = np.fromiter(chain.from_iterable(places), dtype=np.int64)[first[row] + self.records["place"]]
        at_ms = self.base_ms[row] + self.records["at_ms"]
        self._add_items(row, at_ms, place)
        self._find_runs(np.array(labels, dtype=np.int64))
        self.bad = self._bad(thresholds)
        self._measure()

    def _add_items(self, row: Ints, at_ms: Ints, place: Ints) -> None:
        events = list(self._events())
        refused = [n for n, count in enumerate(self.column["rejected"]) if count]
        self.events = len(events)
        self.event_kind = np.array([kind for *_, kind in events], dtype=np.int64)
        self.refused = np.array([self.column["rejected"][n] for n in refused], dtype=np.int64)
        more = np.array(
            [event[:3] for event in events] + [(n, self.base_ms[n], self._last_place[n]) for n in refused], dtype=np.int64
        ).reshape(-1, 3)
        self.row: Ints = np.concatenate([row, more[:, 0]])
        self.at_ms: Ints = np.concatenate([at_ms, more[:, 1]])
        self.place: Ints = np.concatenate([place, more[:, 2]])
        self.minute = self.at_ms // MINUTE_MS

    def _events(self) -> list[tuple[int, int, int, int]]:
        """Row, time, place and kind of each event. Where it was: as it says, else at the last place that its part names."""
        return [
            (n, event.at, self._event_place(self._last_place[n], event), EVENT_KINDS.index(event.kind))
            for n, stored in enumerate(self.column["events"])
            if stored is not None
            for event in _event_decoder.decode(stored)
        ]

    def _event_place(self, beside: int, event: "_StoredEvent") -> int:
        if event.region is None and event.server is None:
            return beside
        studio_id, game_id, region, _ = self.origins.places[beside]
        return self.origins.place(studio_id, game_id, event.region or region, event.server)

    def _find_runs(self, labels: Ints) -> None:
        new = np.ones(len(self.row), dtype=bool)
        new[1:] = np.logical_or.reduce([one[1:] != one[:-1] for one in (self.row, self.place, self.minute)])
        new[self.reports : self.reports + 1] = True
        new[self.reports + self.events :] = True
        self._run_starts = np.flatnonzero(new)
        self.run = np.cumsum(new) - 1
        self.run_row, self.run_place, self.run_minute = (one[new] for one in (self.row, self.place, self.minute))
        self.run_labels = labels[self.run_row]
        self._keys = [
            np.unique(self.origins.keys(number, self.run_labels, self.run_place), return_inverse=True)
            for number in range(len(SETS))
        ]

    def _bad(self, thresholds: Mapping[int, Thresholds]) -> Bools:
        """Which items make a session's minute bad."""
        games = Interned()
        game = games.all(self.column["game_id"])
        limits = np.array([thresholds[game_id] for game_id in games.values()], dtype=np.float64).reshape(-1, 3)
        limits = (limits * (1e3, 1e3, 1e6))[game[self.row[: self.reports]]]
        bad = np.zeros(len(self.row), dtype=bool)
        for column, name in enumerate(("rtt_us", "jitter_us", "loss_ppm")):
            values = self.records[name]
            bad[: self.reports] |= (values != NOT_KNOWN) & (values > limits[:, column])
        bad[self.reports : self.reports + self.events] = np.isin(self.event_kind, _BAD_KINDS)
        return bad

    # -- by dimensions ---------------------------------------------------------------------------------------------------------

    def unnamed(self) -> dict[tuple[int, int], Combination]:
        """The combinations of all sets that have no dimension_id yet, by what origins call them."""
        return {key: one for number, (keys, _) in enumerate(self._keys) for key, one in self.origins.unnamed(number, keys).items()}

    def deltas(self, dimension_set: int) -> list[Delta]:
        """All measures of one dimension set, by game and minute. After unnamed() has been named."""
        games = Interned()
        game = games.all(zip(self.column["studio_id"], self.column["game_id"], strict=True))[self.run_row]
        keys, of = self._keys[dimension_set]
        unique_ids, rank = np.unique(self.origins.ids(dimension_set, keys), return_inverse=True)
        id_rank = rank[of]
        first_min = int(self.run_minute.min())
        span = int(self.run_minute.max()) - first_min + 1
        slots, slot = np.unique((game * span + self.run_minute - first_min) * len(unique_ids) + id_rank, return_inverse=True)
        block = self._block(unique_ids[slots % len(unique_ids)], slot)
        together = slots // len(unique_ids)
        starts, named = np.flatnonzero(np.diff(together, prepend=-1)), games.values()
        found = []
        for start, one in zip(together[starts].tolist(), block.split(starts.tolist()), strict=True):
            code, minute = divmod(start, span)
            studio_id, game_id = named[code]
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
