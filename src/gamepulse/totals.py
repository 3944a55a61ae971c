"""What else a step counts: the players' metrics by region and country, and where and when each session was seen."""

from collections.abc import Iterable, Sequence
from copy import copy
from datetime import date, timedelta
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gamepulse import histogram, records
from gamepulse.batch import EVENT_KINDS, QUALITIES
from gamepulse.origins import Interned
from gamepulse.records import UNKNOWN as NOT_KNOWN
from gamepulse.rollup import PLACE, Ints
from gamepulse.tally import EPOCH, Bools, Columns

DAY_MIN = 24 * 60
DAY_MS = DAY_MIN * 60 * 1000
EPOCH_DAY = date(1970, 1, 1)
_BUCKET_SPAN = 1 << 16
_MEASURED = ("rtt_us", "jitter_us", "loss_ppm")


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

    def copy(self) -> "Total":
        """Another one that says the same."""
        one = Total()
        for name in self.__slots__:
            setattr(one, name, copy(getattr(self, name)))
        return one

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


type TotalKey = tuple[int, int, str, str]
"""studio, game, region, country."""
type Rows = list[Sequence[Any]]
"""Where and when sessions were seen, as the columns of put_seen and put_others."""
_PLAYER = 13
"""Which of them."""


class Seen(NamedTuple):
    """What is to be put; `shared`: which rows of `together` are about several players."""

    together: Rows
    """A row for each session, place and day."""
    apart: Rows
    """A row for each player of those that are shared."""
    shared: frozenset[int]

    def others(self, named: Iterable[bytes | None]) -> Rows | None:
        """The rows of players that session_seen does not name. `named`: whom it names, by the rows of `together`. Mostly none."""
        said = enumerate(zip(self.together[_PLAYER], named, strict=True))
        others = [n for n, (player, first) in said if player is not None and player != first and n not in self.shared]
        if not others and not self.shared:
            return None
        return [[*apart, *(column[n] for n in others)] for apart, column in zip(self.apart, self.together, strict=True)]


class _Groups:
    """Items by group: the first run of each group, and each item's group. `run`: each item's; `codes`: of each run."""

    def __init__(self, run: Ints, *codes: Ints) -> None:
        combined = np.zeros(len(codes[0]), dtype=np.int64)
        for code in codes:
            low = int(code.min()) if len(code) else 0
            span = int(code.max()) - low + 1 if len(code) else 1
            combined = combined * span + (code - low)
        _, self.first, self.of_run = np.unique(combined, return_index=True, return_inverse=True)
        self.of = self.of_run[run]
        self.count = len(self.first)

    def sizes(self, where: Bools | None = None) -> Ints:
        return np.bincount(self.of if where is None else self.of[where], minlength=self.count)

    def sums(self, values: npt.NDArray[Any], where: Bools) -> Ints:
        return np.bincount(self.of[where], weights=values[where], minlength=self.count).astype(np.int64)

    def words(self, codes: Ints, words: int) -> Ints:
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


def count_totals(columns: Columns) -> dict[TotalKey, Total]:
    """What the parts add to the players' metrics."""
    totals: dict[TotalKey, Total] = {}
    if columns.reports:
        _count_reports(columns, totals)
    since, until = columns.reports, columns.reports + columns.events
    for run, kind in zip(columns.run[since:until].tolist(), columns.event_kind.tolist(), strict=True):
        _total(totals, columns, run).events[kind] += 1
    return totals


def _count_reports(columns: Columns, totals: dict[TotalKey, Total]) -> None:
    origins, runs = columns.origins, columns.run[: columns.reports]
    labels, place = (one[: runs[-1] + 1] for one in (columns.run_labels, columns.run_place))
    groups = _Groups(runs, origins.keys(PLACE, labels, place))
    values = {name: columns.records[name] for name in _MEASURED}
    sums = {name: groups.sums(one, one != NOT_KNOWN) for name, one in values.items()}
    buckets = {name: groups.buckets(one, 1e6) for name, one in values.items()}
    sizes, qualities = groups.sizes(), groups.words(records.quality_codes(columns.records), len(QUALITIES))
    for group, first in enumerate(groups.first.tolist()):
        total = _total(totals, columns, first)
        total.reports = int(sizes[group])
        total.rtt_us_sum, total.jitter_us_sum, total.loss_ppm_sum = (int(sums[name][group]) for name in _MEASURED)
        total.rtt, total.jitter, total.loss = (buckets[name][group] for name in _MEASURED)
        total.qualities = qualities[group].tolist()


def _total(totals: dict[TotalKey, Total], columns: Columns, run: int) -> Total:
    place, labels = columns.origins.places[columns.run_place[run]], columns.origins.labels[columns.run_labels[run]]
    return totals.setdefault((place.studio_id, place.game_id, place.region, labels.country or "ZZ"), Total())


def see(columns: Columns) -> Seen:
    """Where and when each session was, and who, by reports and events."""
    until = columns.reports + columns.events
    run = columns.run[:until]
    runs = slice(int(run[-1]) + 1 if until else 0)
    session = Interned().all(zip(columns.column["game_id"], columns.column["session_id"], strict=True))
    row_of = columns.run_row[runs]
    codes = session[row_of], columns.run_place[runs], columns.run_minute[runs] // DAY_MIN
    player = Interned().all((None, *columns.column["player"]))[1:][row_of]  # 0: not named
    groups, named = _Groups(run, *codes), np.flatnonzero(player)
    first_named = groups.first.copy()  # a game server's part may not name the player: whoever is asked about must be found
    of_named, index = np.unique(groups.of_run[named], return_index=True)
    first_named[of_named] = named[index]
    together = _rows(columns, groups, first_named)
    shared = np.unique(groups.of_run[(player > 0) & (player != player[first_named][groups.of_run])])
    if not len(shared):
        return Seen(together, [()] * len(together), frozenset())
    by_player = _Groups(run, *codes, player)
    apart = np.flatnonzero((player[by_player.first] > 0) & np.isin(groups.of_run[by_player.first], shared)).tolist()
    rows = _rows(columns, by_player, by_player.first)
    return Seen(together, [[column[n] for n in apart] for column in rows], frozenset(shared.tolist()))


def _rows(columns: Columns, groups: _Groups, first_named: Ints) -> Rows:
    """A row for each group; `first_named`: the run that names its player."""
    until = columns.reports + columns.events
    at_ms, is_report = columns.at_ms[:until], np.arange(until) < columns.reports
    first_ms, last_ms = np.full(groups.count, np.iinfo(np.int64).max), np.zeros(groups.count, dtype=np.int64)
    np.minimum.at(first_ms, groups.of, at_ms)
    np.maximum.at(last_ms, groups.of, at_ms)
    rows = columns.run_row[groups.first].tolist()
    places = [columns.origins.places[one] for one in columns.run_place[groups.first].tolist()]
    labels = [columns.origins.labels[one] for one in columns.run_labels[groups.first].tolist()]
    session_id, match, player = (columns.column[name] for name in ("session_id", "match", "player"))
    return [
        [one.studio_id for one in places],
        [one.game_id for one in places],
        [EPOCH_DAY + timedelta(days=day) for day in (first_ms // DAY_MS).tolist()],
        [session_id[n] for n in rows],
        [one.region for one in places],
        [one.server for one in places],
        [one.country or "ZZ" for one in labels],
        *([getattr(one, name) for one in labels] for name in records.LABELS[1:]),
        [match[n] for n in rows],
        [player[n] for n in columns.run_row[first_named].tolist()],
        *([EPOCH + timedelta(milliseconds=ms) for ms in times.tolist()] for times in (first_ms, last_ms)),
        groups.sizes(is_report).tolist(),
        groups.sizes(is_report & columns.bad[:until]).tolist(),
        groups.sizes(~is_report).tolist(),
    ]
