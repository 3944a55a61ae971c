"""Keeps the number of a game's dimension values bounded, and gives each combination its id."""

from collections import Counter
from collections.abc import Iterable

import asyncpg

from gamepulse import database
from gamepulse.rollup import DIMENSIONS, OTHER, SETS, VALUES_MAX, Key
from gamepulse.tally import Tally

COMBINATIONS_MAX = 20_000
"""Of one game and dimension set; beyond it all dimensions are OTHER."""
_SQL = database.queries("aggregate")

type _Id = tuple[int, int, int, tuple[str, ...]]


class Labels:
    """The dimension values that are in use, as read from and added to the table `dimension`."""

    def __init__(self) -> None:
        self._ids: dict[_Id, int] = {}
        self._values: dict[tuple[int, str], set[str]] = {}
        self._combinations: dict[tuple[int, int], int] = {}
        self._loaded: set[tuple[int, int]] = set()

    async def load(self, connection: database.Connection, games: Iterable[tuple[int, int]]) -> None:
        """Read the dimensions of games that are not known yet."""
        for studio_id, game_id in set(games) - self._loaded:
            await self._read(connection, studio_id, game_id)
            self._loaded.add((studio_id, game_id))

    def bounded(self, game_id: int, dimension: str, value: str) -> str:
        """The value, or OTHER when the game has as many as it may."""
        values = self._values.setdefault((game_id, dimension), set())
        if value in values:
            return value
        if len(values) >= VALUES_MAX[dimension]:
            return OTHER
        values.add(value)
        return value

    def id_of(self, key: Key) -> int:
        """The id of a key's dimensions, or of what stands for all beyond the limit. After name()."""
        found = self._ids.get((key.studio_id, key.game_id, key.dimension_set, key.dimensions))
        return self._ids[_overflow(key)] if found is None else found

    async def name(self, connection: database.Connection, counted: Tally) -> None:
        """See to it that each key of a tally has its id. Outside of the step's transaction: an id too many does no harm."""
        new: set[_Id] = set()
        added: Counter[tuple[int, int]] = Counter()
        for key in counted.rollups:
            wanted = (key.studio_id, key.game_id, key.dimension_set, key.dimensions)
            if wanted in self._ids or wanted in new:
                continue
            used = self._combinations.get((key.game_id, key.dimension_set), 0) + added[key.game_id, key.dimension_set]
            if used >= COMBINATIONS_MAX:
                wanted = _overflow(key)
                if wanted in self._ids:
                    continue
            added[key.game_id, key.dimension_set] += 1
            new.add(wanted)
        if new:
            await self._add(connection, sorted(new))

    async def _add(self, connection: database.Connection, new: list[_Id]) -> None:
        columns: list[list[object]] = [[one[0] for one in new], [one[1] for one in new], [one[2] for one in new]]
        named = [dict(zip(SETS[one[2]], one[3], strict=True)) for one in new]
        columns.extend([values.get(dimension) for values in named] for dimension in DIMENSIONS)
        for row in await connection.fetch(_SQL["add_dimensions"], *columns):
            self._remember(row)
        for studio_id, game_id in {(one[0], one[1]) for one in new if one not in self._ids}:  # another leader was first
            await self._read(connection, studio_id, game_id)

    async def _read(self, connection: database.Connection, studio_id: int, game_id: int) -> None:
        for row in await connection.fetch(_SQL["dimensions"], studio_id, game_id):
            self._remember(row)

    def _remember(self, row: asyncpg.Record) -> None:
        studio_id, game_id, a_set = row["studio_id"], row["game_id"], row["dimension_set"]
        values = tuple(row[dimension] for dimension in SETS[a_set])
        if (studio_id, game_id, a_set, values) not in self._ids:
            self._ids[studio_id, game_id, a_set, values] = row["dimension_id"]
            self._combinations[game_id, a_set] = self._combinations.get((game_id, a_set), 0) + 1
        for dimension, value in zip(SETS[a_set], values, strict=True):
            if dimension in VALUES_MAX and value != OTHER:
                self._values.setdefault((game_id, dimension), set()).add(value)


def _overflow(key: Key) -> _Id:
    return (key.studio_id, key.game_id, key.dimension_set, (OTHER,) * len(SETS[key.dimension_set]))
