"""The limits of POST /v1/reports: spent in this process, settled with Valkey ten times a second for those who send much.

No request waits for Valkey. Who sends little is never told of. What the others have spent is told in bulk, and Valkey says whether
it was too much; until it has answered, a process lends each of them a lease. So all processes together let through no more than
the limit and, in each window and of each process, one lease (docs/adr/0031).
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

from gamepulse import errors, limits
from gamepulse.limits import Answer, Charge, Limit, Limits, client_of
from gamepulse.telemetry import Telemetry

SETTLE_EVERY_S = 0.1
WINDOW_S = 1.0
LEASES: Final = 4
"""A lease is this part of what the limit allows in a window: 500 players behind one address may come at once. Whoever stays below
half a lease in a window is not told of."""
KEY = Limit("key", 20_000, 1, 20_000)
"""Batches with one ingest key: 200,000 players who report every 10 s; 2.5 times what a web worker stores (docs/adr/0016)."""
ADDRESS = Limit("address-batches", 2_000, 1, 2_000)
"""Batches from one address: 20,000 players who report every 10 s. Thousands share one behind a carrier's NAT or in a PC bang."""
SESSION = Limit("session", 60, 10, 60)
"""Batches of one session, sent with a client key: six times as many as the quickest that `next_report_s` can ask for."""
SUBJECTS_MAX = 100_000
"""Of each kind in a window; of what comes beyond, nothing is noted."""


class Lease:
    """What one who sends much has spent. Of that, Valkey knows `told`; `refused_until` is monotonic."""

    __slots__ = ("hashed", "refused_until", "spent", "told")

    def __init__(self, hashed: str, spent: int) -> None:
        self.hashed = hashed
        self.spent = spent
        self.told = 0
        self.refused_until = 0.0


class Budget:
    """What this process spends of one limit. `hashed`: a subject, as Valkey is told of it; `due`: set when that should be soon."""

    def __init__(self, limit: Limit, hashed: Callable[[str], str], due: asyncio.Event) -> None:
        self.limit = limit
        self.lease = limit.quota // LEASES
        self._free = self.lease // 2
        self._hashed = hashed
        self._due = due
        self._spent: dict[int, int] = {}
        self._leases: dict[int, Lease] = {}

    def spend(self, subject: str) -> float:
        """One more: 0, or the seconds after which the subject may try again."""
        number = hash(subject)  # so that no address stays in memory
        spent = self._spent.get(number, 0)
        if spent < self._free:
            if spent or len(self._spent) < SUBJECTS_MAX:
                self._spent[number] = spent + 1
            return 0.0
        return self._spend_leased(number, subject)

    def _spend_leased(self, number: int, subject: str) -> float:
        lease = self._leases.get(number)
        if lease is None:
            lease = self._leases[number] = Lease(self._hashed(subject), self._free)
        wait_s = lease.refused_until - time.monotonic()
        if wait_s > 0:
            return wait_s
        untold = lease.spent - lease.told
        if untold >= self._free:
            self._due.set()
        if untold >= self.lease:
            return SETTLE_EVERY_S
        lease.spent += 1
        return 0.0

    def untold(self) -> list[tuple[int, Charge]]:
        """What Valkey has to be told."""
        return [
            (number, Charge(self.limit, lease.hashed, lease.spent - lease.told))
            for number, lease in self._leases.items()
            if lease.spent > lease.told
        ]

    def settle(self, number: int, charge: Charge, wait_us: int) -> None:
        """Valkey has been told, and wants the subject to wait for so long."""
        lease = self._leases[number]
        lease.told += charge.cost
        lease.refused_until = time.monotonic() + wait_us / 1e6 if wait_us else 0.0

    def begin_window(self) -> None:
        """Forget all but those of whom Valkey has not been told everything, or who are refused still."""
        now = time.monotonic()
        self._leases = {
            number: lease for number, lease in self._leases.items() if lease.spent > lease.told or lease.refused_until > now
        }
        self._spent = dict.fromkeys(self._leases, self._free)


class Leases:
    """The limits of reports in this process."""

    def __init__(self, shared: Limits, telemetry: Telemetry) -> None:
        self._shared = shared
        self._telemetry = telemetry
        self._due = asyncio.Event()
        self._keys = Budget(KEY, shared.hashed, self._due)
        self._addresses = Budget(ADDRESS, shared.hashed, self._due)
        self._sessions: dict[int, int] = {}
        self._window_ends = time.monotonic() + WINDOW_S
        self._session_window_ends = time.monotonic() + SESSION.window_s
        self._task = asyncio.create_task(self._settle_forever())

    async def close(self) -> None:
        """What is not told yet, nobody learns."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def spend_key(self, key: str) -> None:
        """One batch with this key. Raises Problem RATE_LIMITED."""
        wait_s = self._keys.spend(key)
        if wait_s:
            raise _refusal(KEY, wait_s)

    def spend_address(self, address: str) -> None:
        """One batch from this address; from the machine itself, any number. Raises Problem RATE_LIMITED."""
        client = client_of(address)
        wait_s = self._addresses.spend(client) if client else 0.0
        if wait_s:
            raise _refusal(ADDRESS, wait_s)

    def spend_session(self, session: UUID) -> None:
        """One batch of this session. Raises Problem RATE_LIMITED."""
        number = session.int
        spent = self._sessions.get(number, 0)
        if spent >= SESSION.quota:
            raise _refusal(SESSION, max(0.0, self._session_window_ends - time.monotonic()))
        if spent or len(self._sessions) < SUBJECTS_MAX:
            self._sessions[number] = spent + 1

    async def _settle_forever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(SETTLE_EVERY_S):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()
            try:
                await self.settle()
            except Exception as error:  # noqa: BLE001 — one settlement is late, not all that come after
                self._telemetry.failed("limits not settled", error)
                await asyncio.sleep(SETTLE_EVERY_S)

    async def settle(self) -> None:
        """Tell Valkey what was spent, and begin a window when it is time."""
        owed = [(budget, number, charge) for budget in (self._keys, self._addresses) for number, charge in budget.untold()]
        if owed:
            answers = await self._shared.spend([charge for _, _, charge in owed], is_asked=False)
            for (budget, number, charge), answer in zip(owed, answers, strict=True):
                budget.settle(number, charge, answer.wait_us)
        now = time.monotonic()
        if now >= self._window_ends:
            self._window_ends = now + WINDOW_S
            self._keys.begin_window()
            self._addresses.begin_window()
        if now >= self._session_window_ends:
            self._session_window_ends = now + SESSION.window_s
            self._sessions = {}

    def begin_window(self) -> None:
        """Of all limits, at once."""
        self._keys.begin_window()
        self._addresses.begin_window()
        self._sessions = {}


def _refusal(limit: Limit, wait_s: float) -> errors.Problem:
    return limits.refusal(wait_s, limits.headers([(limit, Answer(1, 0, round(wait_s * 1e6)))]))
