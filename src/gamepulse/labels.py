"""Keeps the number of a game's dimension values bounded, and gives each combination its id.

Only what was seen within ACTIVE_DAYS counts towards a limit and is kept in memory; what comes back later gets its old id.

Before each step a process reads what others have added, so that all count against one limit. Those whose steps run at the same
moment do not see each other: each may admit what was free when its step began. So a game has at most `processes` times the limit,
when all of them meet a flood of new values in the same step; from the next step on no more are admitted. (What is of before
ACTIVE_DAYS and comes back is known to the other processes on the next day.)
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta

import asyncpg
import numpy as np

from gamepulse import database
from gamepulse.origins import Combination
from gamepulse.rollup import DIMENSIONS, OTHER, SETS, UNKNOWN, VALUES_MAX, Ints
from gamepulse.tally import Columns

COMBINATIONS_MAX = 20_000
"""Of one game and dimension set at a time; beyond it all dimensions are OTHER."""
ACTIVE_DAYS = 30
LOCKS = 0x6772
"""The class of the advisory locks under which a game's dimensions are added; the object is the game."""
_SQL = database.queries("aggregate")


class Labels:
    """The dimension values that are in use, as read from and added to the table `dimension`."""

    def __init__(self) -> None:
        self._forget(date.min)

    def _forget(self, today: date) -> None:
        self.today = today
        """When all was read; by tomorrow others may have gone."""
        self._ids: dict[Combination, int] = {}
        self._seen_before: set[int] = set()
        self._values: dict[tuple[int, str], set[str]] = {}
        self._combinations: Counter[tuple[int, int]] = Counter()
        self._read_up_to: dict[tuple[int, int], int] = {}

    async def load(self, connection: database.Connection, games: Iterable[tuple[int, int]]) -> None:
        """Before a step: read the active dimensions that were added to its games since the last one; all anew on another day."""
        today = datetime.now(UTC).date()
        if today != self.today:
            self._forget(today)
        asked = [(*game, self._read_up_to.get(game, 0)) for game in games]
        since = today - timedelta(days=ACTIVE_DAYS)
        for row in await connection.fetch(_SQL["dimensions"], since, *zip(*asked, strict=True)):
            self._remember(row)
            game = row["studio_id"], row["game_id"]
            self._read_up_to[game] = max(self._read_up_to.get(game, 0), row["dimension_id"])

    def bounded(self, game_id: int, dimension: str, value: str) -> str:
        """The value, or OTHER when the game has as many as it may. UNKNOWN is none of them."""
        values = self._values.setdefault((game_id, dimension), set())
        if value in values or value == UNKNOWN:
            return value
        if len(values) >= VALUES_MAX[dimension]:
            return OTHER
        values.add(value)
        return value

    def ids(self, combinations: Sequence[Combination]) -> Ints:
        """The id of each combination, or of what stands for all beyond the limit. After name()."""
        known = self._ids
        return np.array([known.get(one) or known[_overflow(one)] for one in combinations], dtype=np.int64)

    async def name(self, connection: database.Connection, combinations: Iterable[Combination]) -> None:
        """See to it that each combination has its id, and is known as seen today.

        Outside of the step's transaction: an id too many does no harm.
        """
        new: set[Combination] = set()
        added: Counter[tuple[int, int]] = Counter()
        old: list[tuple[int, int, int]] = []
        for one in combinations:
            known = self._ids.get(one)
            if known is not None:
                if known in self._seen_before:
                    old.append((*one[:2], known))
                continue
            wanted, where = one, one[1:3]
            if wanted not in new and self._combinations[where] + added[where] >= COMBINATIONS_MAX:
                wanted = _overflow(one)
            if wanted not in self._ids and wanted not in new:
                added[where] += 1
                new.add(wanted)
        if new:
            await self._add(connection, sorted(new))
        if old:
            await connection.execute(_SQL["see_dimensions"], self.today, *zip(*old, strict=True))
            self._seen_before.difference_update(known for _, _, known in old)

    async def name_columns(self, connection: database.Connection, columns: Columns) -> None:
        """See to it that all that the columns are counted under has its id."""
        unnamed = columns.unnamed()
        await self.name(connection, unnamed.values())
        columns.origins.name(unnamed, self.ids(list(unnamed.values())))

    async def _add(self, connection: database.Connection, new: list[Combination]) -> None:
        columns: list[list[object]] = [[one[0] for one in new], [one[1] for one in new], [one[2] for one in new]]
        named = [dict(zip(SETS[one[2]], one[3], strict=True)) for one in new]
        columns.extend([values.get(dimension) for values in named] for dimension in DIMENSIONS)
        async with connection.transaction():
            # One process at a time for each game: so ids become visible in their order, and no reader passes one over.
            await connection.execute(_SQL["add_alone"], LOCKS, sorted({one[1] for one in new}))
            rows = await connection.fetch(_SQL["add_dimensions"], self.today, *columns)
        for row in rows:
            self._remember(row)

    def _remember(self, row: asyncpg.Record) -> None:
        studio_id, game_id, a_set = row["studio_id"], row["game_id"], row["dimension_set"]
        values = tuple(row[dimension] for dimension in SETS[a_set])
        combination = (studio_id, game_id, a_set, values)
        if combination not in self._ids:
            self._ids[combination] = row["dimension_id"]
            self._combinations[game_id, a_set] += 1
            if row["seen"] < self.today:
                self._seen_before.add(row["dimension_id"])
        for dimension, value in zip(SETS[a_set], values, strict=True):
            if dimension in VALUES_MAX and value not in (OTHER, UNKNOWN):
                self._values.setdefault((game_id, dimension), set()).add(value)


def _overflow(one: Combination) -> Combination:
    return (*one[:3], (OTHER,) * len(SETS[one[2]]))
