"""The live stream: the last minutes of a game, made once a second for all who watch it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec
import numpy as np
import redis.asyncio as redis

from gamepulse import database, measures, metrics, valkey
from gamepulse.aggregate import CHANNEL
from gamepulse.asker import Game
from gamepulse.gather import Names, Of
from gamepulse.measures import Measures
from gamepulse.quality import Group, group_of, percentiles
from gamepulse.receive import AHEAD_MS_MAX
from gamepulse.resilience import pause_s
from gamepulse.rollup import (
    EVENTS,
    LOSS_COUNT,
    LOSS_PPM_SUM,
    PLACE,
    REPORTS,
    SETS,
    Block,
    decode,
    merge,
    regroup,
)
from gamepulse.telemetry import Telemetry

MINUTES = 15
AHEAD = timedelta(milliseconds=AHEAD_MS_MAX)
"""How far in the future a report may be: its minute is kept until it has come."""
EVERY_S = 1.0
GROUPS_MAX = 50
LINES_MAX = 12
VIEWERS_MAX = 1_000
CLIENT_VIEWERS_MAX = 100
"""Of one address: a studio may be behind one, but nobody alone takes every place."""
_SQL = database.queries("serve")

type _BlockKey = tuple[datetime, *tuple[int, ...]]
"""The minute; then whether it is late, or a delta's shard and watermark."""
type _Minutes = dict[str, dict[datetime, Measures]]


class LivePoint(msgspec.Struct):
    """One minute of a line. `at`: its start in ms since the epoch; `drops`: disconnects and failed connects."""

    at: int
    count: int
    sessions: int
    bad_sessions: int
    drops: int
    p50: float | None
    p95: float | None
    p99: float | None
    loss: float | None


class LiveSeries(msgspec.Struct):
    """A point a minute; the last one is the running minute."""

    total: list[LivePoint]
    regions: dict[str, list[LivePoint]]
    countries: dict[str, list[LivePoint]]


class Snapshot(msgspec.Struct, rename={"from_": "from"}):
    """What one event of the stream says."""

    game: str
    as_of: datetime
    from_: datetime
    to: datetime
    total: Group
    regions: list[Group]
    countries: list[Group]
    series: LiveSeries


class Channel:
    """One game's last minutes, kept up to date while someone watches."""

    def __init__(self, pool: database.Pool, game: Game) -> None:
        self._pool = pool
        self._game = game
        self._of = Of(game.studio_id, game.game_id, PLACE, SETS[PLACE])
        self._names = Names()
        self._blocks: dict[_BlockKey, Block] = {}
        self._minutes: dict[datetime, Block] = {}
        self._horizon = 0
        self._refreshing = asyncio.Lock()
        self.viewers = 0
        self.is_public = False
        self.latest = b""
        self.changed = asyncio.Condition()

    async def refresh(self) -> None:
        """Read what has changed, and make the next event of it."""
        async with self._refreshing:
            await self._refresh()

    async def _refresh(self) -> None:
        now = datetime.now(UTC)
        end = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
        start = end - timedelta(minutes=MINUTES)
        async with database.studio(self._pool, self._game.studio_id) as connection:
            clock = await connection.fetchrow(_SQL["clock"], self._game.studio_id, self._game.game_id)
            assert clock is not None
            asked = (self._game.studio_id, self._game.game_id, start, end + AHEAD, self._horizon)
            minutes = await connection.fetch(_SQL["changed_minutes"], *asked)
            deltas = await connection.fetch(_SQL["changed_deltas"], *asked)
            await asyncio.to_thread(self._take, minutes, deltas, start)
            ids = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *(block.ids for block in self._minutes.values())]))
            places = dict(zip(ids.tolist(), await self._names.of(connection, self._of, ids), strict=True))
        self._horizon = clock["horizon"]
        self.is_public = clock["is_public"]
        # In a thread: merging must not hold up those who send.
        self.latest = await asyncio.to_thread(self._event, places, clock["as_of"], start, end)
        async with self.changed:
            self.changed.notify_all()

    def _take(self, minutes: list[asyncpg.Record], deltas: list[asyncpg.Record], start: datetime) -> None:
        """Keep what is new, forget what is older than the window or has been added to its minute; merge by minute."""
        new: dict[_BlockKey, Block] = {(row["start"], row["is_late"]): decode(row["block"]) for row in minutes}
        waiting = {(row["start"], row["shard"], row["upto"]): row["block"] for row in deltas}
        new |= {key: decode(block) for key, block in waiting.items() if block is not None}
        gone = {key for key in self._blocks if key[0] < start or (len(key) > 2 and key not in waiting)}
        self._blocks = {key: block for key, block in self._blocks.items() if key not in gone} | new
        touched = {key[0] for key in (*gone, *new)}
        by_minute: dict[datetime, list[Block]] = {}
        for key, block in self._blocks.items():
            if key[0] in touched:
                by_minute.setdefault(key[0], []).append(block)
        self._minutes = {at: block for at, block in self._minutes.items() if at not in touched} | {
            at: merge(blocks) for at, blocks in by_minute.items()
        }

    def _event(self, places: dict[int, tuple[str, ...]], as_of: datetime, start: datetime, end: datetime) -> bytes:
        snapshot = self._snapshot(places, as_of, start, end)
        return b"event: quality\ndata: " + msgspec.json.encode(snapshot) + b"\n\n"

    def _snapshot(self, places: dict[int, tuple[str, ...]], as_of: datetime, start: datetime, end: datetime) -> Snapshot:
        times = [start + timedelta(minutes=n) for n in range(MINUTES)]
        minutes = {at: block for at, block in self._minutes.items() if at < end}
        total, total_line = _by_name(minutes, lambda _: "")
        regions, region_lines = _by_name(minutes, lambda one: places[one][0])
        countries, country_lines = _by_name(minutes, lambda one: places[one][1])
        all_regions, all_countries = _groups(regions, "region"), _groups(countries, "country")
        return Snapshot(
            game=self._game.slug,
            as_of=as_of,
            from_=start,
            to=end,
            total=group_of(total.get("", measures.NOTHING), {}),
            regions=all_regions,
            countries=all_countries,
            series=LiveSeries(
                total=_line(total_line.get("", {}), times),
                regions={name: _line(region_lines[name], times) for name in _largest(all_regions, "region")},
                countries={name: _line(country_lines[name], times) for name in _largest(all_countries, "country")},
            ),
        )


def _by_name(minutes: dict[datetime, Block], name: Callable[[int], str]) -> tuple[dict[str, Measures], _Minutes]:
    """The measures by name, over all minutes and in each."""
    codes: dict[str, int] = {}
    named = []
    for block in minutes.values():
        owner = np.array([codes.setdefault(name(one), len(codes)) for one in block.ids.tolist()], dtype=np.int64)
        ids, owner = np.unique(owner, return_inverse=True)
        named.append(regroup([block], owner, ids))
    names = list(codes)
    lines: _Minutes = {}
    for at, block in zip(minutes, named, strict=True):
        for code, one in zip(block.ids.tolist(), measures.of_block(block), strict=True):
            lines.setdefault(names[code], {})[at] = one
    together = merge(named)
    return {names[code]: one for code, one in zip(together.ids.tolist(), measures.of_block(together), strict=True)}, lines


def _groups(by_name: dict[str, Measures], dimension: str) -> list[Group]:
    groups = [group_of(one, {dimension: name}) for name, one in by_name.items()]
    groups.sort(key=lambda group: (-group.count, getattr(group, dimension)))
    return groups[:GROUPS_MAX]


def _largest(groups: list[Group], dimension: str) -> list[str]:
    return [getattr(group, dimension) for group in groups[:LINES_MAX]]


def _line(minutes: dict[datetime, Measures], times: list[datetime]) -> list[LivePoint]:
    return [_point(at, minutes.get(at, measures.NOTHING)) for at in times]


def _point(at: datetime, of: Measures) -> LivePoint:
    counts, rtt_ms = of.counts, percentiles(of.rtt_ms)
    return LivePoint(
        at=int(at.timestamp() * 1000),
        count=counts[REPORTS],
        sessions=of.sessions,
        bad_sessions=of.bad_sessions,
        drops=counts[EVENTS] + counts[EVENTS + 2],
        p50=rtt_ms.p50 if rtt_ms else None,
        p95=rtt_ms.p95 if rtt_ms else None,
        p99=rtt_ms.p99 if rtt_ms else None,
        loss=counts[LOSS_PPM_SUM] / counts[LOSS_COUNT] / 1e6 if counts[LOSS_COUNT] else None,
    )


class Live:
    """The channels that someone watches. Told by Valkey when there is news; without Valkey, it looks once a second."""

    def __init__(self, pool: database.Pool, news: redis.Redis, telemetry: Telemetry) -> None:
        self._pool = pool
        self._telemetry = telemetry
        self._channels: dict[int, Channel] = {}
        self._news = asyncio.Event()
        self._valkey = news
        self._tasks: list[asyncio.Task[None]] = []
        self._of_client: Counter[int] = Counter()
        self.is_draining = False
        telemetry.observe.append(lambda: telemetry.metrics.set(metrics.LIVE_VIEWERS, self.viewers))

    @property
    def viewers(self) -> int:
        """Open streams of this process."""
        return sum(channel.viewers for channel in self._channels.values())

    def has_place(self, client: str) -> bool:
        """For one more stream of this client, which is empty for the machine itself (limits.client_of)."""
        return self.viewers < VIEWERS_MAX and not (client and self._of_client[hash(client)] >= CLIENT_VIEWERS_MAX)

    def start(self) -> None:
        """Begin to listen and to refresh."""
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._refresh_forever())]

    async def close(self) -> None:
        """End all streams."""
        self.is_draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._valkey.aclose()

    async def watch(self, game: Game, client: str, may: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
        """The events of a game's stream, until the process drains, or the game is not public and the viewer no longer `may`."""
        if not self.has_place(client):  # asked again: others may have come since the route asked
            return
        channel = self._channels.setdefault(game.game_id, Channel(self._pool, game))
        channel.viewers += 1
        self._of_client[hash(client)] += 1
        try:
            yield b"retry: 2000\n\n"
            if not channel.latest:
                await channel.refresh()
            while not self.is_draining and (channel.is_public or await may()):
                yield channel.latest
                try:
                    async with asyncio.timeout(2 * EVERY_S), channel.changed:
                        await channel.changed.wait()
                except TimeoutError:
                    yield b": nothing new\n\n"
        finally:
            channel.viewers -= 1
            self._of_client -= Counter({hash(client): 1})  # without those that have none any more
            if not channel.viewers:
                self._channels.pop(game.game_id, None)

    async def _refresh_forever(self) -> None:
        while True:
            for channel in list(self._channels.values()):
                try:
                    await channel.refresh()
                except Exception as error:  # noqa: BLE001 — the page keeps what it has; the next look may succeed
                    self._telemetry.failed("live page not refreshed", error)
            self._news.clear()
            await asyncio.sleep(EVERY_S / 2)
            try:
                await asyncio.wait_for(self._news.wait(), EVERY_S / 2)
            except TimeoutError:
                continue

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                async with self._valkey.pubsub() as pubsub:
                    await pubsub.subscribe(CHANNEL)
                    async for _ in pubsub.listen():
                        failures = 0
                        self._news.set()
            except valkey.AWAY:
                failures += 1
                await asyncio.sleep(pause_s(failures))
