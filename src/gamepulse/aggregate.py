"""Aggregation: raw batches become rollups, shard by shard, each report counted exactly once.

A shard's leader reads what was committed since its watermark, counts it, and writes rollups and watermark in one transaction that
first compares and sets the watermark. The advisory lock only saves two leaders from doing the same work; a leader that was frozen
and comes back finds its session ended by PostgreSQL or its watermark moved, and has written nothing.
"""

import asyncio
import signal
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import redis.asyncio as redis
from redis.exceptions import RedisError

from gamepulse import database, metrics
from gamepulse.batch import EVENT_KINDS, QUALITIES
from gamepulse.labels import Labels
from gamepulse.metrics import HistogramState, Metrics
from gamepulse.receive import SHARDS
from gamepulse.rollup import OTHER, Measures
from gamepulse.rows import Put, columns, measures_of, put_rollups, put_totals, seen_columns, total_of
from gamepulse.run import end_with_parent
from gamepulse.settings import Settings
from gamepulse.tally import Tally, Thresholds, Total, TotalKey, tally
from gamepulse.telemetry import Telemetry, resource

STEP_EVERY_S = 0.4
STEP_BATCHES_MAX = 5_000
HOUSEKEEPING_EVERY_S = 600
FORGET_SLICE = 5_000
RETRY_AFTER_S = 1.0
TOTALS_MAX = 1_000
"""Pairs of region and country of a shard's players' metrics, over all its games."""
FROZEN_AFTER_S = 15
"""PostgreSQL ends the session of an aggregator that is silent for so long; its shards are then free."""
LOCKS = 0x6770  # the class of our advisory locks ("gp"); the object is the shard, or -1 for membership
CHANNEL = "gamepulse:aggregated"
"""Told, in Valkey, after each step that counted something: live pages need not wait for their next look."""
_SQL = database.queries("aggregate")
_FINER = {"hour": "rollup_minute", "day": "rollup_hour"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Fenced(RuntimeError):
    """Another leader has moved the watermark."""


class Shard:
    """What the leader of a shard knows: its totals, and which moments will be complete once a transaction id is passed."""

    def __init__(self, number: int, totals: dict[TotalKey, Total], since: datetime, as_of: datetime) -> None:
        self.number = number
        self.totals = totals
        self.since_ns = int(since.timestamp() * 1e9)
        self.as_of = as_of
        self.moments: list[tuple[int, datetime]] = []

    def add(self, counted: dict[TotalKey, Total]) -> set[TotalKey]:
        """Add to the totals; the keys that have changed. Regions and countries beyond TOTALS_MAX count as OTHER."""
        changed = set()
        for key, total in counted.items():
            known = key if key in self.totals or len(self.totals) < TOTALS_MAX else (*key[:2], OTHER, OTHER)
            self.totals.setdefault(known, Total()).merge(total)
            changed.add(known)
        return changed

    def complete_up_to(self, upto: int, next_xid: int, at: datetime) -> datetime:
        """The latest moment before which every commit lies below `upto`."""
        self.moments.append((next_xid, at))
        while self.moments and self.moments[0][0] <= upto:
            self.as_of = max(self.as_of, self.moments.pop(0)[1])
        del self.moments[:-64]
        return self.as_of


class Aggregator:
    """One process's aggregation: leads as many shards as is its fair share."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._led: dict[int, Shard] = {}
        self._labels = Labels()
        self._thresholds: dict[int, Thresholds] = {}
        self._valkey = redis.Redis.from_url(settings.valkey_url, socket_timeout=0.5, socket_connect_timeout=0.5)
        self._is_closing = asyncio.Event()
        self._has_old_batch_keys = False
        telemetry.observe.append(self._export)

    def stop(self) -> None:
        """Stop after the running step."""
        self._is_closing.set()

    async def run(self) -> None:
        """Aggregate until stopped, over every failure of PostgreSQL."""
        while not self._is_closing.is_set():
            try:
                await self._session()
            except Exception as error:  # noqa: BLE001 — nothing was written; it is told, and tried again from the watermark
                self._telemetry.failed("aggregation interrupted", error)
                await self._pause(RETRY_AFTER_S)
            finally:
                self._led.clear()

    async def close(self) -> None:
        """Close what is not PostgreSQL's."""
        await self._valkey.aclose()

    async def _session(self) -> None:
        """Aggregate over one connection, which holds the locks of the shards that it leads."""
        connection = await asyncpg.connect(
            self._settings.database_url,
            timeout=database.CONNECT_TIMEOUT_S,
            command_timeout=60,
            server_settings={
                "role": "gamepulse_aggregate",
                "application_name": "gamepulse-aggregate",
                "idle_session_timeout": f"{FROZEN_AFTER_S}s",
                "idle_in_transaction_session_timeout": f"{FROZEN_AFTER_S}s",
                "jit": "off",
            },
        )
        try:
            await connection.execute(_SQL["join"], LOCKS)
            await database.verify(connection)
            housekeeping_at = 0.0
            while not self._is_closing.is_set():
                started = time.monotonic()
                await self._take_share(connection)
                if started >= housekeeping_at:  # before the steps: a step that lacks a partition fails
                    await self._keep_house(connection)
                    housekeeping_at = started + HOUSEKEEPING_EVERY_S
                is_behind = await self._step_all(connection)
                is_behind |= await self._forget_batch_keys(connection)
                if not is_behind:
                    await self._pause(STEP_EVERY_S - (time.monotonic() - started))
        finally:
            await connection.close(timeout=2)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._is_closing.wait(), max(seconds, 0.0))
        except TimeoutError:
            return

    # -- who leads -----------------------------------------------------------------------------------------------------------

    async def _take_share(self, connection: database.Connection) -> None:
        """Lead a fair share of the shards: release what is too much, try for what is free."""
        members = max(await connection.fetchval(_SQL["members"], LOCKS), 1)
        share = -(-SHARDS // members)
        for number in list(self._led)[share:]:
            del self._led[number]
            await connection.fetchval(_SQL["unlock"], LOCKS, number)
        for number in range(SHARDS):
            if len(self._led) >= share:
                break
            if number not in self._led and await connection.fetchval(_SQL["try_lock"], LOCKS, number):
                self._led[number] = await self._load(connection, number)
                self._telemetry.log("INFO", "shard taken", {"shard": number})

    async def _load(self, connection: database.Connection, number: int) -> Shard:
        rows = await connection.fetch(_SQL["totals"], number)
        mark = await connection.fetchrow(_SQL["horizon"], number)
        assert mark is not None
        totals = {(row["studio_id"], row["game_id"], row["region"], row["country"]): total_of(row) for row in rows}
        return Shard(number, totals, mark["totals_since"], mark["as_of"])

    # -- a step --------------------------------------------------------------------------------------------------------------

    async def _step_all(self, connection: database.Connection) -> bool:
        """One step of each shard. Whether there is more to do at once."""
        is_behind = False
        for shard in list(self._led.values()):
            is_behind |= await self._step(connection, shard)
            await self._renew(connection, shard.number)
        return is_behind

    async def _step(self, connection: database.Connection, shard: Shard) -> bool:
        started_ns = time.time_ns()
        mark = await connection.fetchrow(_SQL["horizon"], shard.number)
        assert mark is not None
        rows = await connection.fetch(_SQL["raw_batches"], shard.number, mark["upto"], mark["horizon"], STEP_BATCHES_MAX)
        is_behind = len(rows) == STEP_BATCHES_MAX
        upto = mark["horizon"]
        if is_behind:  # the last transaction may have more rows than were read
            rows, upto = await self._whole_transactions(connection, shard.number, rows)
        if any(row["game_id"] not in self._thresholds for row in rows):
            await self._load_thresholds(connection)
        counted = await self._count(connection, rows)
        as_of = shard.complete_up_to(upto, mark["next_xid"], mark["at"])
        async with connection.transaction():
            if await connection.fetchval(_SQL["advance"], shard.number, mark["upto"], upto, as_of) is None:
                raise Fenced(f"shard {shard.number}")
            if counted is not None:
                await self._write(connection, shard, counted)
        if counted is not None:
            await self._tell(rows, counted, started_ns, shard)
        return is_behind

    async def _whole_transactions(
        self, connection: database.Connection, number: int, rows: list[asyncpg.Record]
    ) -> tuple[list[asyncpg.Record], int]:
        """Rows of complete transactions only, and the transaction id after them."""
        last = rows[-1]["xid"]
        if rows[0]["xid"] == last:  # one transaction that is larger than a step
            return await connection.fetch(_SQL["raw_batches"], number, last, last + 1, None), last + 1
        return [row for row in rows if row["xid"] < last], last

    async def _count(self, connection: database.Connection, rows: Sequence[asyncpg.Record]) -> Tally | None:
        if not rows:
            return None
        await self._labels.load(connection, {(row["studio_id"], row["game_id"]) for row in rows})
        counted = tally(rows, self._thresholds, self._labels.bounded)
        await self._labels.name(connection, counted)
        return counted

    async def _load_thresholds(self, connection: database.Connection) -> None:
        rows = await connection.fetch(_SQL["thresholds"])
        self._thresholds = {row["game_id"]: Thresholds(row["bad_rtt_ms"], row["bad_jitter_ms"], row["bad_loss"]) for row in rows}

    async def _write(self, connection: database.Connection, shard: Shard, counted: Tally) -> None:
        """Add a tally to what is stored. In the transaction that advances the watermark, so all of it or nothing."""
        together: dict[tuple[int, int, int, int], dict[int, Measures]] = {}
        for key, measures in counted.rollups.items():
            where = (key.studio_id, key.game_id, key.dimension_set, key.start_min)
            by_dimension = together.setdefault(where, {})
            dimension_id = self._labels.id_of(key)
            if dimension_id in by_dimension:  # two groups that both overflowed
                by_dimension[dimension_id].merge(measures)
            else:
                by_dimension[dimension_id] = measures
        puts: list[Put] = []
        for (studio_id, game_id, dimension_set, start_min), by_dimension in sorted(together.items()):
            start = _EPOCH + timedelta(minutes=start_min)
            stored = await connection.fetch(
                _SQL["rollups"], studio_id, game_id, dimension_set, start, shard.number, list(by_dimension)
            )
            for row in stored:
                by_dimension[row["dimension_id"]].merge(measures_of(row))
            puts.extend((studio_id, game_id, dimension_set, start, one, by_dimension[one]) for one in sorted(by_dimension))
        await put_rollups(connection, "rollup_minute", shard.number, puts)
        hours = sorted({(studio, game, start.replace(minute=0)) for studio, game, _, start, _, _ in puts})
        await connection.execute(_SQL["put_stale"], "hour", shard.number, *columns(hours, 3))
        await connection.execute(_SQL["put_seen"], *seen_columns(counted.seen))
        await put_totals(connection, shard.number, shard.totals, sorted(shard.add(counted.totals)))

    async def _tell(self, rows: Sequence[asyncpg.Record], counted: Tally, started_ns: int, shard: Shard) -> None:
        """Metrics, a span that links to the commits, and a word to the live pages."""
        ended_ns = time.time_ns()
        self._telemetry.metrics.record(metrics.AGGREGATE_DURATION, (ended_ns - started_ns) / 1e9)
        self._telemetry.metrics.add(metrics.AGGREGATE_REPORTS, counted.reports)
        links = dict.fromkeys(row["commit_span"] for row in rows if row["commit_span"] is not None)
        if links:
            self._telemetry.span(
                "aggregate", started_ns, ended_ns, links, **{"gamepulse.shard": shard.number, "gamepulse.reports": counted.reports}
            )
        try:
            await self._valkey.publish(CHANNEL, shard.number)
        except (RedisError, OSError) as error:  # live pages look once a second anyway
            self._telemetry.failed("live pages not told", error)

    # -- hours and days ------------------------------------------------------------------------------------------------------

    async def _renew(self, connection: database.Connection, number: int) -> None:
        """Make one closed hour or day anew, if one is stale."""
        stale = await connection.fetchrow(_SQL["stale"], number)
        if stale is None:
            return
        studio_id, game_id, step, start = stale
        end = start + timedelta(**{f"{step}s": 1})
        async with connection.transaction():
            await connection.fetchval(_SQL["lock_watermark"], number)
            rows = await connection.fetch(_SQL["finer"].format(table=_FINER[step]), studio_id, game_id, start, end, number)
            merged: dict[tuple[int, int], Measures] = {}
            for row in rows:
                merged.setdefault((row["dimension_set"], row["dimension_id"]), Measures()).merge(measures_of(row))
            puts = [(studio_id, game_id, a_set, start, one, measures) for (a_set, one), measures in sorted(merged.items())]
            await put_rollups(connection, f"rollup_{step}", number, puts)
            await connection.execute(_SQL["fresh"], studio_id, game_id, step, start, number)
            if step == "hour":
                await connection.execute(_SQL["put_stale"], "day", number, [studio_id], [game_id], [start.replace(hour=0)])

    # -- housekeeping --------------------------------------------------------------------------------------------------------

    async def _keep_house(self, connection: database.Connection) -> None:
        """Thresholds may have changed; partitions ahead, partitions behind (by one process: the leader of shard 0)."""
        await self._load_thresholds(connection)
        if 0 not in self._led:
            return
        settings = self._settings
        await connection.execute(_SQL["partitions"])
        dropped = await connection.fetch(
            _SQL["expired"], settings.raw_retention_days, settings.minute_retention_days, settings.hour_retention_months
        )
        for row in dropped:
            self._telemetry.log("INFO", "partition dropped", {"partition": row[0]})
        self._has_old_batch_keys = True

    async def _forget_batch_keys(self, connection: database.Connection) -> bool:
        """Forget a slice of the batch ids that are past their 48 h. Whether there may be more."""
        if self._has_old_batch_keys:
            done = await connection.execute(_SQL["forget_batch_keys"], FORGET_SLICE)
            self._has_old_batch_keys = done == f"DELETE {FORGET_SLICE}"
        return self._has_old_batch_keys

    # -- the players' metrics ------------------------------------------------------------------------------------------------

    def _export(self) -> None:
        """The lag, and the totals of the shards led here, as if each shard were an instance: a take-over continues its series."""
        slugs, now = self._labels.slugs, datetime.now(UTC)
        lags: dict[metrics.Attributes, float] = {(one.number,): (now - one.as_of).total_seconds() for one in self._led.values()}
        self._telemetry.metrics.replace(metrics.AGGREGATE_LAG, lags)
        for shard in self._led.values():
            counted = Metrics(shard.since_ns, series_max=len(shard.totals) * len(QUALITIES))
            for (_, game_id, region, country), total in shard.totals.items():
                _export_total(counted, total, slugs.get(game_id, str(game_id)), region, country)
            self._telemetry.send_points(counted, resource(self._settings, f"shard-{shard.number}"))


def _export_total(counted: Metrics, total: Total, *attributes: str) -> None:
    counted.put(metrics.PLAYER_RTT, HistogramState(total.rtt, total.rtt_us_sum / 1e6), *attributes)
    counted.put(metrics.PLAYER_JITTER, HistogramState(total.jitter, total.jitter_us_sum / 1e6), *attributes)
    counted.put(metrics.PLAYER_LOSS, HistogramState(total.loss, total.loss_ppm_sum / 1e6), *attributes)
    counted.set(metrics.PLAYER_REPORTS, total.reports, *attributes)
    for quality, count in zip(QUALITIES, total.qualities, strict=True):
        counted.set(metrics.PLAYER_QUALITY, count, *attributes, quality)
    for kind, count in zip(EVENT_KINDS, total.events, strict=True):
        counted.set(metrics.PLAYER_EVENTS, count, *attributes, kind)


async def main(settings: Settings, *, with_parent: bool) -> None:
    """The aggregator process: runs until SIGTERM or SIGINT, or until its parent ends."""
    telemetry = Telemetry(settings, "aggregate")
    telemetry.start()
    aggregator = Aggregator(settings, telemetry)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, aggregator.stop)
    watch = asyncio.create_task(end_with_parent()) if with_parent else None
    await aggregator.run()
    if watch is not None:
        watch.cancel()
    await aggregator.close()
    await telemetry.close()
