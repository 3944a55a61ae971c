"""Group commit: batches that arrive while a commit is in flight share the next one, and each is answered after it.

No queue stands between an answer and the database. When a commit's outcome is unknown (the connection broke, time ran out) its
batches are answered 503: the client sends them again under the same batch_id, and what was stored after all is told as a duplicate.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import msgspec

from gamepulse import database, errors, metrics, records
from gamepulse.batch import ITEMS_MAX, Rejection
from gamepulse.receive import Sent
from gamepulse.spans import CommitFacts
from gamepulse.telemetry import Telemetry

COMMIT_REPORTS_MAX = 10_000
COMMIT_BATCHES_MAX = 1_000
COMMIT_EVERY_S = 0.002
"""Commits begin at most so often: each costs CPU of its own, here and in PostgreSQL, however little it holds (docs/adr/0001)."""
GAME_SHARE = 0.9
"""Of what may wait for its commit, one game's: the rest is left to others, however much it sends."""
_SQL = database.queries("accept")


class Stored(msgspec.Struct):
    """What a batch was first accepted with. `is_duplicate`: by an earlier sending, not by this one."""

    fingerprint: int
    accepted: int
    rejected: list[Rejection]
    is_duplicate: bool
    commit: CommitFacts | None = None


class Acceptor:
    """Stores batches in groups. `pending_reports_max`: how many may wait for their commit."""

    def __init__(self, pool: database.Pool, look_ups: database.Pool, telemetry: Telemetry, pending_reports_max: int) -> None:
        self._pool = pool
        self._look_ups = look_ups
        self._telemetry = telemetry
        self._pending_reports_max = pending_reports_max
        self._pending: deque[tuple[Sent, asyncio.Future[Stored]]] = deque()
        self._arrived = asyncio.Event()
        self._one_look_up = asyncio.Lock()
        self._is_closing = False
        self._committer = asyncio.create_task(self._commit_forever())
        self._game_reports_max = max(ITEMS_MAX, int(GAME_SHARE * pending_reports_max))
        self._game_reports: dict[int, int] = {}
        self._crest = 0
        self.pending_reports = 0
        self.full_games: set[int] = set()
        """Those of which no batch at all can be taken now."""

    @property
    def is_full(self) -> bool:
        """No batch at all can be taken now."""
        return self.pending_reports >= self._pending_reports_max

    def crest(self) -> float:
        """How much waited at most since this was last asked: 1 when something was refused."""
        crest, self._crest = self._crest, self.pending_reports
        return min(1.0, crest / self._pending_reports_max)

    def refused(self) -> None:
        """Something was refused because this much waits."""
        self._crest = self._pending_reports_max

    async def accept(self, sent: Sent) -> Stored:
        """Store one batch; returns when it is safe.

        Raises Problem: OVERLOADED, DATABASE_UNAVAILABLE, BATCH_ID_REUSED (same id, other content), NOT_STORABLE, COMMIT_FAILED,
        INTERNAL.
        """
        of_game = self._game_reports.get(sent.key.game_id, 0) + sent.weight
        if self._is_closing or self.pending_reports + sent.weight > self._pending_reports_max or of_game > self._game_reports_max:
            self.refused()
            raise errors.Problem(errors.OVERLOADED)
        answered: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._pend(sent.key.game_id, sent.weight)
        self._pending.append((sent, answered))
        self._arrived.set()
        stored = await answered
        if stored.fingerprint != sent.fingerprint:
            raise errors.Problem(errors.BATCH_ID_REUSED, pointers=["/batch_id"])
        return stored

    def _pend(self, game_id: int, reports: int) -> None:
        """So many more, or fewer, wait."""
        self.pending_reports += reports
        self._crest = max(self._crest, self.pending_reports)
        of_game = self._game_reports[game_id] = self._game_reports.get(game_id, 0) + reports
        if of_game >= self._game_reports_max:
            self.full_games.add(game_id)
        elif self.full_games:
            self.full_games.discard(game_id)
        if not of_game:
            del self._game_reports[game_id]

    async def known(self, sent: Sent) -> Stored | None:
        """What the batch was first accepted with, if it was."""
        try:
            async with (
                asyncio.timeout(database.LOOK_UP_TIMEOUT_S),
                self._one_look_up,  # a flood of batches with bad times leaves connections to those who look up a key
                database.use(self._look_ups, database.LOOK_UP_TIMEOUT_S) as connection,
            ):
                rows = await connection.fetch(_SQL["known"], *_keys([sent]))
        except database.UNREACHABLE as error:
            raise _away() from error
        return _stored(rows[0]) if rows else None

    async def close(self) -> None:
        """Commit what is pending, then stop."""
        self._is_closing = True
        self._arrived.set()
        await self._committer

    async def _commit_forever(self) -> None:
        began = 0.0
        while self._pending or not self._is_closing:
            self._arrived.clear()
            if not self._pending:
                await self._arrived.wait()
                continue
            await asyncio.sleep(began + COMMIT_EVERY_S - time.monotonic())
            began = time.monotonic()
            await self._settle(self._next_group())

    def _next_group(self) -> list[tuple[Sent, asyncio.Future[Stored]]]:
        """The batches that share the next commit, in order of arrival, up to its limits."""
        group = [self._pending.popleft()]
        reports = group[0][0].weight
        while self._pending and len(group) < COMMIT_BATCHES_MAX:
            reports += self._pending[0][0].weight
            if reports > COMMIT_REPORTS_MAX:
                break
            group.append(self._pending.popleft())
        return group

    async def _settle(self, group: list[tuple[Sent, asyncio.Future[Stored]]]) -> bool:
        """Commit a group and tell everyone in it; one poisonous batch does not sink the others. Whether PostgreSQL was there."""
        started = time.monotonic()
        try:
            stored = await self._commit([sent for sent, _ in group])
        except asyncpg.CheckViolationError as error:  # there is no partition for today: our fault, and not for ever
            self._telemetry.failed("no partition for this day", error)
            self._fail(group, started, _away())
        except database.UNREACHABLE as error:
            self._telemetry.failed("commit failed", error)
            # Whoever waits for the next commit would only wait for the same: all are told at once.
            group += self._pending
            self._pending.clear()
            self._fail(group, started, _away())
            return False
        except Exception as error:  # noqa: BLE001 — whatever it is, nobody must wait for ever; it is logged and answered
            if len(group) > 1:
                return await self._settle_each(group)
            self._telemetry.failed("commit failed", error)
            self._fail(group, started, errors.Problem(_kind(error)))
        else:
            for (sent, answered), result in zip(group, stored, strict=True):
                self._pend(sent.key.game_id, -sent.weight)
                if not answered.done():
                    answered.set_result(result)
        return True

    async def _settle_each(self, group: list[tuple[Sent, asyncio.Future[Stored]]]) -> bool:
        """One by one; when PostgreSQL goes away amid that, the rest are told so and do not wait for it each."""
        for n, one in enumerate(group):
            if not await self._settle([one]):
                self._fail(group[n + 1 :], time.monotonic(), _away())
                return False
        return True

    def _fail(self, group: list[tuple[Sent, asyncio.Future[Stored]]], started: float, problem: errors.Problem) -> None:
        self._telemetry.metrics.record(metrics.COMMIT_DURATION, time.monotonic() - started, problem.kind.code)
        for sent, answered in group:
            self._pend(sent.key.game_id, -sent.weight)
            if not answered.done():
                answered.set_exception(problem)

    async def _commit(self, group: list[Sent]) -> list[Stored]:
        """One transaction for a group; what each of its batches is stored with, in the same order."""
        # Sorted by key: two processes that commit the same keys in another order would wait for each other.
        firsts = dict(sorted({(sent.key.game_id, sent.batch_id): sent for sent in reversed(group)}.items()))
        facts = CommitFacts.begin(len(firsts), next((sent.facts for sent in group if sent.facts.sampled), None))
        async with database.use(self._pool, database.COMMIT_TIMEOUT_S) as connection:
            rows = await connection.fetch(_SQL["commit"], *_arguments(list(firsts.values()), facts))
            fresh = {(row["game_id"], row["batch_id"]) for row in rows}
            older = [sent for key, sent in firsts.items() if key not in fresh]
            known = await connection.fetch(_SQL["known"], *_keys(older)) if older else []
        facts.end(reports=sum(sent.accepted for key, sent in firsts.items() if key in fresh))
        self._telemetry.committed(facts)
        earlier = {(row["game_id"], row["batch_id"]): _stored(row) for row in known}
        stored = []
        for sent in group:
            key = (sent.key.game_id, sent.batch_id)
            if key in fresh:
                first = firsts[key]
                stored.append(Stored(first.fingerprint, first.accepted, first.rejected, first is not sent, facts))
            else:
                stored.append(earlier[key])
        return stored


def _stored(row: asyncpg.Record) -> Stored:
    rejected = msgspec.json.decode(row["rejected"], type=list[Rejection]) if row["rejected"] else []
    return Stored(row["fingerprint"], row["accepted"], rejected, is_duplicate=True)


def _kind(error: Exception) -> errors.Kind:
    """What a single batch is answered with whose commit failed though PostgreSQL is there."""
    if isinstance(error, (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)):
        return errors.NOT_STORABLE
    return errors.INTERNAL if isinstance(error, database.Misused) else errors.COMMIT_FAILED


def _away() -> errors.Problem:
    return errors.Problem(errors.DATABASE_UNAVAILABLE)


def _keys(group: Sequence[Sent]) -> tuple[list[int], list[int], list[UUID]]:
    return [s.key.studio_id for s in group], [s.key.game_id for s in group], [s.batch_id for s in group]


def _arguments(group: Sequence[Sent], facts: CommitFacts) -> tuple[object, ...]:
    """The columns of the commit statement: of the batches, then of their parts; then what all have in common."""
    parts = [(number, sent, part) for number, sent in enumerate(group, 1) for part in sent.parts]
    now_ms = facts.started_ns // 1_000_000
    packed = records.pack(
        [part.columns for _, _, part in parts],
        [part.place_codes for _, _, part in parts],
        [now_ms - (sent.clock_offset_ms or 0) for _, sent, _ in parts],
    )
    return (
        *_keys(group),
        [s.fingerprint for s in group],
        [s.accepted for s in group],
        [msgspec.json.encode(s.rejected).decode() if s.rejected else None for s in group],
        [s.clock_offset_ms for s in group],
        [number for number, _, _ in parts],
        [p.session_id for _, _, p in parts],
        [p.shard for _, _, p in parts],
        [p.rejected for _, _, p in parts],
        [p.labels for _, _, p in parts],
        [p.match for _, _, p in parts],
        [p.player for _, _, p in parts],
        packed,
        [p.events for _, _, p in parts],
        datetime.fromtimestamp(now_ms / 1000, UTC),
        facts.span_context(),
    )
