"""Aggregation: raw batches become rollups, shard by shard, each report counted exactly once.

A shard's leader reads what was committed since its watermark, counts it, and writes deltas and watermark in one transaction that
first compares and sets the watermark; what becomes of the deltas is in roll.py. The advisory lock only saves two leaders from doing
the same work; a leader that was frozen and comes back finds its session ended by PostgreSQL or its watermark moved, and has written
nothing.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import batched
from typing import NamedTuple

import asyncpg

from gamepulse import database, metrics, records, valkey
from gamepulse.batch import EVENT_KINDS, QUALITIES
from gamepulse.erase import Eraser
from gamepulse.labels import Labels
from gamepulse.metrics import HistogramState, Metrics
from gamepulse.origins import Origins
from gamepulse.receive import SHARDS
from gamepulse.resilience import Open
from gamepulse.roll import Roller
from gamepulse.rollup import OTHER, REPORTS, SETS, encode
from gamepulse.rows import total_columns, total_of, transposed
from gamepulse.run import end_with
from gamepulse.settings import Settings
from gamepulse.tally import EPOCH, Columns, Thresholds
from gamepulse.telemetry import Telemetry, resource
from gamepulse.totals import Seen, Total, TotalKey, count_totals, see

STEP_EVERY_S = 0.4
STEP_LANES = 2
"""Connections that step shards side by side: one reads or writes while the other counts. One more rolls up."""
STEP_BATCHES_MAX = 2_500
STEP_REPORTS_MAX = 50_000
"""So that a step takes seconds even when each of its reports is a group of its own."""
EVENT_BYTES = 48
"""Of the shortest event as it is stored: so many count as one report against a step's limit."""
HOUSEKEEPING_EVERY_S = 600.0
HOUSEKEEPING_AGAIN_S = 30.0
THRESHOLDS_EVERY_S = 5.0
"""How long a game's new thresholds may take to hold."""
FORGET_SLICE = 5_000
MOMENTS_MAX = 128
ORIGINS_BYTES_MAX = 128 * 2**20
"""Labels and places that are remembered. With more, all are looked at anew."""
RETRY_AFTER_S = 1.0
STOP_TIMEOUT_S = 2.0
TOTALS_PER_REQUEST = 100
"""Pairs whose points are sent together: far less than the 4 MiB that a gRPC server takes by default."""
TOTALS_MAX = 1_000
"""Pairs of region and country of a shard's players' metrics, over all its games."""
ALIVE_EVERY_S = 3.0
FROZEN_AFTER_S = 15
"""PostgreSQL ends the session of an aggregator that is silent for so long; its shards are then free."""
LOCKS = 0x6770  # the class of our advisory locks ("gp"); the object is the shard, or -1 for membership
CHANNEL = "gamepulse:aggregated"
"""Told, in Valkey, after each step that counted something: live pages need not wait for their next look."""
_SQL = database.queries("aggregate")


class Fenced(RuntimeError):
    """Another leader has moved the watermark."""


class Tally(NamedTuple):
    """What a step has counted, as the columns of what is written."""

    reports: int
    deltas: list[list[object]]
    seen: Seen
    totals: dict[TotalKey, Total]
    put_totals: list[list[object]]


class Shard:
    """What the leader of a shard knows: its totals, and which moments will be complete once a transaction id is passed."""

    def __init__(self, number: int, totals: dict[TotalKey, Total], upto: int, since: datetime, as_of: datetime) -> None:
        self.number = number
        self.totals = totals
        self.upto = upto
        self.since_ns = int(since.timestamp() * 1e9)
        self.as_of = as_of
        self.moments: list[tuple[int, datetime]] = []

    def added(self, counted: dict[TotalKey, Total]) -> dict[TotalKey, Total]:
        """The totals that change, with what was counted. Regions and countries beyond TOTALS_MAX count as OTHER."""
        changed: dict[TotalKey, Total] = {}
        free = TOTALS_MAX - len(self.totals)
        for key, total in counted.items():
            free -= key not in self.totals
            known = key if key in self.totals or free >= 0 else (*key[:2], OTHER, OTHER)
            if known not in changed:
                changed[known] = self.totals[known].copy() if known in self.totals else Total()
            changed[known].merge(total)
        return changed

    def complete_up_to(self, upto: int, next_xid: int, at: datetime) -> datetime:
        """The latest moment before which every commit lies below `upto`."""
        self.moments.append((next_xid, at))
        while self.moments and self.moments[0][0] <= upto:
            self.as_of = max(self.as_of, self.moments.pop(0)[1])
        if len(self.moments) > MOMENTS_MAX:
            del self.moments[1::2]  # every second one: those that are left still tell, only coarser
        return self.as_of


def tally(columns: Columns, shard: Shard) -> Tally:
    """What is to be written of a step. The origins of `columns` are named."""
    deltas = (
        (*where, EPOCH + timedelta(minutes=start_min), len(block), int(block.counts[:, REPORTS].sum()), encode(block))
        for number in range(len(SETS))
        for *where, start_min, block in columns.deltas(number)
    )
    totals = shard.added(count_totals(columns))
    return Tally(columns.reports, transposed(deltas, 7), see(columns), totals, total_columns(totals))


class Aggregator:
    """One process's aggregation: leads as many shards as is its fair share."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self._settings = settings
        self._login = database.login(settings)
        self._telemetry = telemetry
        self._led: dict[int, Shard] = {}
        self._given_up: list[int] = []
        self._labels = Labels()
        self._origins = Origins(self._labels.bounded, self._labels.today)
        self._thresholds: dict[int, Thresholds] = {}
        self._slugs: dict[int, str] = {}
        self._valkey = valkey.connect(settings)
        self._policy = valkey.policy()
        self._roller = Roller(telemetry)
        self._counting = asyncio.Lock()
        self._counter = ThreadPoolExecutor(1, "count")
        self._is_closing = asyncio.Event()
        self._forgetting: set[str] = set()
        """The queries that may find more to delete."""
        self._eraser = Eraser(settings.raw_retention_days)
        self._erase_at = 0.0
        self._running: asyncio.Task[None] | None = None
        self._alive_at = 0.0
        """When (monotonic) PostgreSQL last heard of us."""
        telemetry.observe.append(self._export)

    def stop(self) -> None:
        """Stop after the running step, or STOP_TIMEOUT_S later in the midst of it (then it has written nothing)."""
        self._is_closing.set()
        if self._running is not None:
            asyncio.get_running_loop().call_later(STOP_TIMEOUT_S, self._running.cancel)

    async def run(self) -> None:
        """Aggregate until stopped, over every failure of PostgreSQL."""
        self._running = asyncio.current_task()
        while not self._is_closing.is_set():
            try:
                await self._session()
            except Exception as error:  # noqa: BLE001 — nothing was written; it is told, and tried again from the watermark
                self._telemetry.failed("aggregation interrupted", error)
                await self._pause(RETRY_AFTER_S)
            finally:
                self._led.clear()
                self._given_up.clear()

    async def close(self) -> None:
        """Close what is not PostgreSQL's."""
        await self._valkey.aclose()

    async def _session(self) -> None:
        """Aggregate over a few connections. The first one holds the locks of the shards that are led, the others do the work."""
        async with AsyncExitStack() as stack:
            connection = await self._connect(stack, FROZEN_AFTER_S)
            lanes = [await self._connect(stack, 0) for _ in range(STEP_LANES + 1)]
            await connection.execute(_SQL["join"], LOCKS)
            await database.verify(connection)
            housekeeping_at = thresholds_at = 0.0
            while not self._is_closing.is_set():
                started = time.monotonic()
                await self._take_share(connection)
                self._alive_at = time.monotonic()
                if started >= housekeeping_at:  # before the steps: a step that lacks a partition fails
                    housekeeping_at = started + await self._keep_house(connection)
                if started >= thresholds_at:
                    await self._load_thresholds(connection)
                    await self._eraser.watch(connection)
                    thresholds_at = started + THRESHOLDS_EVERY_S
                is_behind = await self._side_by_side(connection, lanes)
                is_behind |= await self._forget(connection)
                is_behind |= await self._erase(connection)
                if not is_behind:
                    await self._pause(STEP_EVERY_S - (time.monotonic() - started))

    async def _connect(self, stack: AsyncExitStack, idle_timeout_s: int) -> database.Connection:
        connection = await asyncpg.connect(
            **self._login,
            timeout=database.CONNECT_TIMEOUT_S,
            command_timeout=60,
            server_settings={
                "role": "gamepulse_aggregate",
                "application_name": "gamepulse-aggregate",
                "idle_session_timeout": f"{idle_timeout_s}s",
                "idle_in_transaction_session_timeout": f"{FROZEN_AFTER_S}s",
                "tcp_user_timeout": f"{FROZEN_AFTER_S}s",  # for one that was frozen while it read: that is not idle
                "jit": "off",
            },
        )
        stack.callback(connection.terminate)  # not close(): a server that hangs would hold us up; the locks go with the connection
        return connection

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._is_closing.wait(), max(seconds, 0.0))
        except TimeoutError:
            return

    # -- who leads -----------------------------------------------------------------------------------------------------------

    async def _take_share(self, connection: database.Connection) -> None:
        """Lead a fair share of the shards: release what is too much or has failed, try for what is free."""
        while self._given_up:
            await connection.fetchval(_SQL["unlock"], LOCKS, self._given_up.pop())
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
        async with connection.transaction(isolation="repeatable_read"):
            rows = await connection.fetch(_SQL["totals"], number)
            mark = await connection.fetchrow(_SQL["horizon"], number)
        assert mark is not None
        totals = {(row["studio_id"], row["game_id"], row["region"], row["country"]): total_of(row) for row in rows}
        return Shard(number, totals, mark["upto"], mark["totals_since"], mark["as_of"])

    # -- a step --------------------------------------------------------------------------------------------------------------

    async def _side_by_side(self, keeper: database.Connection, lanes: Sequence[database.Connection]) -> bool:
        """One step of each shard, and rolling up. Whether there is more to do at once.

        However long that takes, `keeper` is not silent: PostgreSQL would take this process to be frozen, and free its shards.
        """
        shards = list(self._led.values())
        work = [self._step_some(lanes[n], shards[n::STEP_LANES]) for n in range(STEP_LANES)]
        try:
            async with asyncio.TaskGroup() as together:
                tasks = [together.create_task(one) for one in (*work, self._roller.roll(lanes[-1]))]
                while (await asyncio.wait(tasks, timeout=ALIVE_EVERY_S))[1]:
                    await keeper.execute("SELECT 1")
                    self._alive_at = time.monotonic()
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return any(task.result() for task in tasks)

    async def _step_some(self, connection: database.Connection, shards: Sequence[Shard]) -> bool:
        is_behind = False
        for shard in shards:
            try:
                is_behind |= await self._step(connection, shard)
            except Exception as error:
                if connection.is_closed():
                    raise
                self._telemetry.failed("step failed", error)
                del self._led[shard.number]
                self._given_up.append(shard.number)
        return is_behind

    async def _step(self, connection: database.Connection, shard: Shard) -> bool:
        started_ns = time.time_ns()
        mark = await connection.fetchrow(_SQL["horizon"], shard.number)
        assert mark is not None
        if mark["upto"] != shard.upto:  # another leader has counted since: these totals are old
            raise Fenced(f"shard {shard.number}")
        rows, upto = await self._read(connection, shard.number, mark["upto"], mark["horizon"])
        if any(row["game_id"] not in self._thresholds for row in rows):
            await self._load_thresholds(connection)
        counted = await self._count(connection, shard, rows) if rows else None
        as_of = shard.complete_up_to(upto, mark["next_xid"], mark["at"])
        async with connection.transaction():
            if await connection.fetchval(_SQL["advance"], shard.number, mark["upto"], upto, as_of) is None:
                raise Fenced(f"shard {shard.number}")
            if counted is not None:
                await connection.execute(_SQL["put_deltas"], shard.number, upto, mark["as_of"], *counted.deltas)
                named = await connection.fetch(_SQL["put_seen"], *counted.seen.together)
                if others := counted.seen.others(row["player"] for row in named):
                    await connection.execute(_SQL["put_others"], *others)
                await connection.execute(_SQL["put_totals"], shard.number, *counted.put_totals)
        shard.upto = upto
        if counted is not None:
            shard.totals |= counted.totals
            await self._tell(rows, counted, started_ns, shard)
        return bool(upto < mark["horizon"])

    async def _read(
        self, connection: database.Connection, number: int, since: int, horizon: int
    ) -> tuple[list[asyncpg.Record], int]:
        """The rows of a step: whole transactions only, and the transaction id after them."""
        rows = await connection.fetch(_SQL["raw_batches"], number, since, horizon, STEP_BATCHES_MAX)
        upto = horizon
        if len(rows) == STEP_BATCHES_MAX:  # the last transaction may have more rows than were read
            upto = rows[-1]["xid"]
        size = 0
        for row in rows:
            size += len(row["records"]) // records.RECORD.itemsize + len(row["events"] or "") // EVENT_BYTES + 1
            if size > STEP_REPORTS_MAX and row["xid"] < upto:
                upto = row["xid"]
        if rows and upto <= rows[0]["xid"]:  # one transaction that is larger than a step
            upto = rows[0]["xid"] + 1
            return await connection.fetch(_SQL["raw_batches"], number, since, upto, None), upto
        return [row for row in rows if row["xid"] < upto], upto

    async def _count(self, connection: database.Connection, shard: Shard, rows: Sequence[asyncpg.Record]) -> Tally:
        async with self._counting:
            await self._labels.load(connection, {(row["studio_id"], row["game_id"]) for row in rows})
            if self._origins.day != self._labels.today or self._origins.size_bytes > ORIGINS_BYTES_MAX:
                self._origins = Origins(self._labels.bounded, self._labels.today)
            counted = await self._in_thread(Columns, rows, self._thresholds, self._origins)
            await self._labels.name_columns(connection, counted)
            return await self._in_thread(tally, counted, shard)

    async def _in_thread[**P, T](self, do: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """So that another lane's connection is served meanwhile. One thread: nothing is counted beside it, even after a cancel."""
        return await asyncio.get_running_loop().run_in_executor(self._counter, partial(do, *args, **named))

    async def _load_thresholds(self, connection: database.Connection) -> None:
        rows = await connection.fetch(_SQL["thresholds"])
        self._thresholds = {row["game_id"]: Thresholds(row["bad_rtt_ms"], row["bad_jitter_ms"], row["bad_loss"]) for row in rows}
        self._slugs = {row["game_id"]: row["slug"] for row in rows}

    async def _tell(self, rows: Sequence[asyncpg.Record], counted: Tally, started_ns: int, shard: Shard) -> None:
        """Metrics, a span that links to the commits, and a word to the live pages."""
        ended_ns = time.time_ns()
        self._telemetry.metrics.record(metrics.AGGREGATE_DURATION, (ended_ns - started_ns) / 1e9)
        self._telemetry.metrics.add(metrics.AGGREGATE_REPORTS, counted.reports)
        links = dict.fromkeys(row["commit_span"] for row in rows if row["commit_span"] is not None)
        if links:
            self._telemetry.span(
                "aggregate",
                started_ns,
                ended_ns,
                links,
                **{"gamepulse.shard": shard.number, "gamepulse.reports": counted.reports},
            )
        try:  # once: the next step brings news again, and live pages look once a second anyway
            async with self._policy.guarded(), valkey.in_time():
                await self._valkey.publish(CHANNEL, shard.number)
        except Open:
            return
        except valkey.AWAY as error:
            self._telemetry.failed("live pages not told", error)

    # -- housekeeping --------------------------------------------------------------------------------------------------------

    async def _keep_house(self, connection: database.Connection) -> float:
        """Partitions ahead, partitions behind (by one process: the leader of shard 0).

        When to come again, in seconds. Who reads a table for long keeps its partitions from being made or dropped for so
        long; there are days in reserve, so nothing waits for that.
        """
        if 0 not in self._led:
            return HOUSEKEEPING_EVERY_S
        try:
            await self._keep_partitions(connection)
        except asyncpg.LockNotAvailableError as error:
            self._telemetry.failed("partitions are in use", error)
            return HOUSEKEEPING_AGAIN_S
        self._forgetting = {"forget_batch_keys", "forget_recent_groups"}
        await self._eraser.look(connection)
        return HOUSEKEEPING_EVERY_S

    async def _keep_partitions(self, connection: database.Connection) -> None:
        settings = self._settings
        await connection.execute(_SQL["partitions"])
        await connection.execute(_SQL["forget_audits"])
        for name in ("forget_recent", "forget_recent_marks"):
            await connection.execute(_SQL[name])
        dropped = await connection.fetch(
            _SQL["expired"], settings.raw_retention_days, settings.minute_retention_days, settings.hour_retention_months
        )
        for row in dropped:
            self._telemetry.log("INFO", "partition dropped", {"partition": row[0]})

    async def _forget(self, connection: database.Connection) -> bool:
        """Forget a slice of the batch ids that are past their 48 h, and of what was recent. Whether there may be more."""
        for name in tuple(self._forgetting):
            if await connection.execute(_SQL[name], FORGET_SLICE) != f"DELETE {FORGET_SLICE}":
                self._forgetting.remove(name)
        return bool(self._forgetting)

    async def _erase(self, connection: database.Connection) -> bool:
        """Erase a slice, by the leader of shard 0. Whether there may be more."""
        if 0 not in self._led or time.monotonic() < self._erase_at:
            return False
        try:
            return await self._eraser.step(connection)
        except asyncpg.PostgresError as error:  # nothing of the slice was erased; it is tried again
            if connection.is_closed():
                raise
            self._telemetry.failed("erasure interrupted", error)
            self._erase_at = time.monotonic() + HOUSEKEEPING_AGAIN_S
            return False

    # -- the players' metrics ------------------------------------------------------------------------------------------------

    def _export(self) -> None:
        """The lag, and the totals of the shards led here, as if each shard were an instance: a take-over continues its series."""
        is_frozen = time.monotonic() - self._alive_at > FROZEN_AFTER_S  # others may lead by now: older totals would be a reset
        led = [] if is_frozen else list(self._led.values())
        now = datetime.now(UTC)
        lags: dict[metrics.Attributes, float] = {(one.number,): (now - one.as_of).total_seconds() for one in led}
        self._telemetry.metrics.replace(metrics.AGGREGATE_LAG, lags)
        self._telemetry.metrics.set(metrics.ERASURE_AGE, self._eraser.oldest_s)
        self._policy.observe(self._telemetry.metrics)
        for shard in led:
            of = resource(self._settings, f"shard-{shard.number}")
            for part in batched(shard.totals.items(), TOTALS_PER_REQUEST, strict=False):
                counted = Metrics(shard.since_ns, series_max=len(part) * len(QUALITIES))
                for (_, game_id, region, country), total in part:
                    _export_total(counted, total, self._slugs.get(game_id, str(game_id)), region, country)
                self._telemetry.send_points(counted, of)


def _export_total(counted: Metrics, total: Total, *attributes: str) -> None:
    counted.put(metrics.PLAYER_RTT, HistogramState(total.rtt, total.rtt_us_sum / 1e6), *attributes)
    counted.put(metrics.PLAYER_JITTER, HistogramState(total.jitter, total.jitter_us_sum / 1e6), *attributes)
    counted.put(metrics.PLAYER_LOSS, HistogramState(total.loss, total.loss_ppm_sum / 1e6), *attributes)
    counted.set(metrics.PLAYER_REPORTS, total.reports, *attributes)
    for quality, count in zip(QUALITIES, total.qualities, strict=True):
        counted.set(metrics.PLAYER_QUALITY, count, *attributes, quality)
    for kind, count in zip(EVENT_KINDS, total.events, strict=True):
        counted.set(metrics.PLAYER_EVENTS, count, *attributes, kind)


async def main(settings: Settings, *, parent_pid: int | None) -> None:
    """The aggregator process: runs until SIGTERM or SIGINT, or until its parent ends."""
    telemetry = Telemetry(settings, "aggregate")
    telemetry.start()
    aggregator = Aggregator(settings, telemetry)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, aggregator.stop)
    watch = asyncio.create_task(end_with(parent_pid)) if parent_pid else None
    with suppress(asyncio.CancelledError):
        await asyncio.create_task(aggregator.run())
    if watch is not None:
        watch.cancel()
    await aggregator.close()
    await telemetry.close()
