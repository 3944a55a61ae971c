"""The live stream: the last minutes of a game, made once a second for all who watch it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec
import redis.asyncio as redis
from redis.exceptions import RedisError

from gamepulse import database, metrics
from gamepulse.aggregate import CHANNEL
from gamepulse.quality import Game, Group, group_of, percentiles_ms
from gamepulse.receive import AHEAD_MS_MAX
from gamepulse.rollup import Measures
from gamepulse.rows import measures_of
from gamepulse.telemetry import Telemetry

MINUTES = 15
AHEAD = timedelta(milliseconds=AHEAD_MS_MAX)
"""How far in the future a report may be: its minute is kept until it has come."""
EVERY_S = 1.0
GROUPS_MAX = 50
LINES_MAX = 12
VIEWERS_MAX = 1_000
_SQL = database.queries("serve")

type _Place = tuple[str, str]
type _RowKey = tuple[datetime, str, str, int]


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
        self._rows: dict[_RowKey, Measures] = {}
        self._minutes: dict[datetime, dict[_Place, Measures]] = {}
        self._horizon = 0
        self._refreshing = asyncio.Lock()
        self.viewers = 0
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
            clock = await connection.fetchrow(_SQL["clock"])
            assert clock is not None
            rows = await connection.fetch(
                _SQL["changed_rollups"], self._game.studio_id, self._game.game_id, start, end + AHEAD, self._horizon
            )
        self._horizon = clock["horizon"]
        # In a thread: merging must not hold up those who send.
        self.latest = await asyncio.to_thread(self._event, rows, clock["as_of"], start, end)
        async with self.changed:
            self.changed.notify_all()

    def _event(self, rows: list[asyncpg.Record], as_of: datetime, start: datetime, end: datetime) -> bytes:
        for row in rows:
            self._rows[row["start"], row["region"], row["country"], row["shard"]] = measures_of(row)
        self._merge({row["start"] for row in rows}, start)
        return b"event: quality\ndata: " + msgspec.json.encode(self._snapshot(as_of, start, end)) + b"\n\n"

    def _merge(self, touched: set[datetime], start: datetime) -> None:
        """Put the shards of the touched minutes together; forget what is older than the window."""
        self._rows = {key: measures for key, measures in self._rows.items() if key[0] >= start}
        self._minutes = {at: places for at, places in self._minutes.items() if at >= start and at not in touched}
        for (at, region, country, _), measures in self._rows.items():
            if at in touched:
                self._minutes.setdefault(at, {}).setdefault((region, country), Measures()).merge(measures)

    def _snapshot(self, as_of: datetime, start: datetime, end: datetime) -> Snapshot:
        times = [start + timedelta(minutes=n) for n in range(MINUTES)]
        total = self._by_minute(end, lambda _: "")
        regions = self._by_minute(end, lambda place: place[0])
        countries = self._by_minute(end, lambda place: place[1])
        all_regions, all_countries = _groups(regions, "region"), _groups(countries, "country")
        return Snapshot(
            game=self._game.slug,
            as_of=as_of,
            from_=start,
            to=end,
            total=group_of(_sum(total.get("", {}).values()), {}),
            regions=all_regions,
            countries=all_countries,
            series=LiveSeries(
                total=_line(total.get("", {}), times),
                regions={group.region or "": _line(regions[group.region or ""], times) for group in all_regions[:LINES_MAX]},
                countries={
                    group.country or "": _line(countries[group.country or ""], times) for group in all_countries[:LINES_MAX]
                },
            ),
        )

    def _by_minute(self, end: datetime, name: Callable[[_Place], str]) -> dict[str, dict[datetime, Measures]]:
        merged: dict[str, dict[datetime, Measures]] = {}
        for at, places in self._minutes.items():
            for place, measures in places.items() if at < end else ():
                merged.setdefault(name(place), {}).setdefault(at, Measures()).merge(measures)
        return merged


def _sum(minutes: Iterable[Measures]) -> Measures:
    merged = Measures()
    for measures in minutes:
        merged.merge(measures)
    return merged


def _groups(by_name: dict[str, dict[datetime, Measures]], dimension: str) -> list[Group]:
    groups = [group_of(_sum(minutes.values()), {dimension: name}) for name, minutes in by_name.items()]
    groups.sort(key=lambda group: (-group.count, getattr(group, dimension)))
    return groups[:GROUPS_MAX]


def _line(minutes: dict[datetime, Measures], times: list[datetime]) -> list[LivePoint]:
    return [_point(at, minutes.get(at) or Measures()) for at in times]


def _point(at: datetime, measures: Measures) -> LivePoint:
    rtt_ms = percentiles_ms(measures.rtt)
    return LivePoint(
        at=int(at.timestamp() * 1000),
        count=measures.reports,
        sessions=measures.sessions.count(),
        bad_sessions=measures.bad_sessions.count(),
        drops=measures.events[0] + measures.events[2],
        p50=rtt_ms.p50 if rtt_ms else None,
        p95=rtt_ms.p95 if rtt_ms else None,
        p99=rtt_ms.p99 if rtt_ms else None,
        loss=measures.loss_ppm_sum / measures.loss_count / 1e6 if measures.loss_count else None,
    )


class Live:
    """The channels that someone watches. Told by Valkey when there is news; without Valkey, it looks once a second."""

    def __init__(self, pool: database.Pool, valkey_url: str, telemetry: Telemetry) -> None:
        self._pool = pool
        self._telemetry = telemetry
        self._channels: dict[int, Channel] = {}
        self._news = asyncio.Event()
        self._valkey = redis.Redis.from_url(valkey_url, socket_connect_timeout=1)
        self._tasks: list[asyncio.Task[None]] = []
        self.is_draining = False
        telemetry.observe.append(lambda: telemetry.metrics.set(metrics.LIVE_VIEWERS, self.viewers))

    @property
    def viewers(self) -> int:
        """Open streams of this process."""
        return sum(channel.viewers for channel in self._channels.values())

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

    async def watch(self, game: Game) -> AsyncIterator[bytes]:
        """The events of a game's stream, until the process drains."""
        if self.viewers >= VIEWERS_MAX:  # asked again: others may have come since the route asked
            return
        channel = self._channels.setdefault(game.game_id, Channel(self._pool, game))
        channel.viewers += 1
        try:
            yield b"retry: 2000\n\n"
            if not channel.latest:
                await channel.refresh()
            while not self.is_draining:
                yield channel.latest
                try:
                    async with asyncio.timeout(2 * EVERY_S), channel.changed:
                        await channel.changed.wait()
                except TimeoutError:
                    yield b": nothing new\n\n"
        finally:
            channel.viewers -= 1
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
        while True:
            try:
                async with self._valkey.pubsub() as pubsub:
                    await pubsub.subscribe(CHANNEL)
                    async for _ in pubsub.listen():
                        self._news.set()
            except (RedisError, OSError):
                await asyncio.sleep(EVERY_S)
