"""Where reports come from: places, and the labels of sessions. Each is looked at once, numbered, and given its dimension_ids."""

from collections.abc import Callable, Iterable
from datetime import date
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from gamepulse import records
from gamepulse.rollup import CARRIER, SERVER, SETS, UNKNOWN, Ints

KNOWN_BYTES = 1_000
"""What one text's labels or places take in memory besides the text, about."""
ID_BYTES = 150
"""What one dimension_id by its key takes."""
_REGION_BITS = 32

type Bounded = Callable[[int, str, str], str]
"""(game_id, dimension, value) → the value, or OTHER when the game has too many."""
type Combination = tuple[int, int, int, tuple[str, ...]]
"""studio, game, dimension set, values of its dimensions."""


class Place(NamedTuple):
    """Where something was measured or happened; bounded."""

    studio_id: int
    game_id: int
    region: str
    server: str


class SessionLabels(NamedTuple):
    """What a part says of all its reports."""

    studio_id: int
    game_id: int
    country: str | None
    subdivision: str | None
    network: str | None
    connection: str | None
    platform: str | None
    build: str | None


_OF_LABELS = [
    itemgetter(0, 1, *(SessionLabels._fields.index(one) for one in dimensions if one in SessionLabels._fields))
    for dimensions in SETS
]
"""What the dimensions of each set take from a session's labels; region and server come from each report's place."""


class Interned:
    """Numbers for values, in order of appearance."""

    def __init__(self) -> None:
        self.codes: dict[Any, int] = {}

    def code(self, value: Any) -> int:
        return self.codes.setdefault(value, len(self.codes))

    def all(self, values: Iterable[Any]) -> Ints:
        codes = self.codes
        return np.array([codes.setdefault(value, len(codes)) for value in values], dtype=np.int64)

    def values(self) -> list[Any]:
        return list(self.codes)


class Origins:
    """Places and labels by number, and the dimension_ids of what they come to together. What is OTHER stays so for the day.

    `day`: on which the ids were known as seen.
    """

    def __init__(self, bounded: Bounded, day: date) -> None:
        self._bounded = bounded
        self.day = day
        self._places, self._regions = Interned(), Interned()
        self._of_labels: dict[tuple[int, int, str], int] = {}
        self._of_places: dict[tuple[int, int, str], list[int]] = {}
        self._values = [Interned() for _ in SETS]
        self._ids: list[dict[int, int]] = [{} for _ in SETS]
        self.labels: list[SessionLabels] = []
        self.places: list[Place] = []
        self._values_of: list[list[int]] = [[] for _ in SETS]
        self._region_of: list[int] = []
        self.size_bytes = 0
        """What is remembered, about."""

    def of(self, studio_id: int, game_id: int, joined: str) -> tuple[int, list[int]]:
        """The number of a part's labels, and of each place that they name; of an unknown place where they name none."""
        labels, _, places = joined.rpartition("|")
        where = studio_id, game_id
        of_labels = self._of_labels.get((*where, labels))
        if of_labels is None:
            self.size_bytes += len(labels) + KNOWN_BYTES
            of_labels = self._of_labels[*where, labels] = self._add(SessionLabels(*where, *records.split_labels(joined)[0]))
        of_places = self._of_places.get((*where, places))
        if of_places is None:
            self.size_bytes += len(places) + KNOWN_BYTES
            named = records.split_labels(joined)[1] or [(UNKNOWN, None)]
            of_places = self._of_places[*where, places] = [self.place(*where, *one) for one in named]
        return of_labels, of_places

    def _add(self, labels: SessionLabels) -> int:
        self.labels.append(labels)
        studio_id, game_id, country, subdivision, network, connection, platform, build = labels
        bounded = (
            studio_id, game_id, country or "ZZ", subdivision or UNKNOWN, self._bounded(game_id, "network", network or UNKNOWN),
            connection or UNKNOWN, self._bounded(game_id, "platform", platform or UNKNOWN),
            self._bounded(game_id, "build", build or UNKNOWN),
        )  # fmt: skip
        for take, values, of in zip(_OF_LABELS, self._values, self._values_of, strict=True):
            of.append(values.code(take(bounded)))
        return len(self.labels) - 1

    def place(self, studio_id: int, game_id: int, region: str, server: str | None) -> int:
        """The number of a place."""
        region, server = self._bounded(game_id, "region", region), self._bounded(game_id, "server", server or UNKNOWN)
        place = Place(studio_id, game_id, region, server)
        code = self._places.code(place)
        if code == len(self.places):
            self.places.append(place)
            self._region_of.append(self._regions.code(place[:3]))
        return code

    def keys(self, dimension_set: int, labels: Ints, places: Ints) -> Ints:
        """What labels and places come to in a dimension set, as numbers."""
        if dimension_set == SERVER:
            return places
        values = _taken(self._values_of[dimension_set], labels) << _REGION_BITS
        return values if dimension_set == CARRIER else values | _taken(self._region_of, places)

    def unnamed(self, dimension_set: int, keys: Ints) -> dict[tuple[int, int], Combination]:
        """Those of some keys that have no dimension_id yet, by dimension set and key."""
        known = self._ids[dimension_set]
        new = [key for key in keys.tolist() if key not in known]
        values, regions = (self._values[dimension_set].values(), self._regions.values()) if new else ([], [])
        return {(dimension_set, key): self._combination(dimension_set, key, values, regions) for key in new}

    def name(self, keys: Iterable[tuple[int, int]], ids: Ints) -> None:
        """The dimension_ids of what was unnamed()."""
        for (dimension_set, key), dimension_id in zip(keys, ids.tolist(), strict=True):
            self._ids[dimension_set][key] = dimension_id
            self.size_bytes += ID_BYTES

    def ids(self, dimension_set: int, keys: Ints) -> Ints:
        """The dimension_id of each key."""
        known = self._ids[dimension_set]
        return np.array([known[key] for key in keys.tolist()], dtype=np.int64)

    def _combination(self, dimension_set: int, key: int, values: list[Any], regions: list[Any]) -> Combination:
        if dimension_set == SERVER:
            studio_id, game_id, *named = self.places[key]
        else:
            studio_id, game_id, *named = values[key >> _REGION_BITS]
            if dimension_set != CARRIER:
                named.insert(0, regions[key & (1 << _REGION_BITS) - 1][2])
        return studio_id, game_id, dimension_set, tuple(named)


def _taken(values: list[int], at: Ints) -> Ints:
    """Some of the values; the list itself is long."""
    return np.fromiter(map(values.__getitem__, at.tolist()), dtype=np.int64, count=len(at))
