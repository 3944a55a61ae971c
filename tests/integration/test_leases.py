"""Limits of reports: spent from leases that each process holds, so that no report waits for Valkey."""

import asyncio
import json
import math
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
import redis.asyncio as redis

from gamepulse import errors, leases, limits, settings, valkey
from gamepulse.leases import Budget, Leases
from gamepulse.limits import Answer, Charge, Limit, Limits, Local
from gamepulse.telemetry import Telemetry
from tests.batches import batch, now_ms
from tests.conftest import SERVER_KEY, service_environ
from tests.integration.test_rate_limits import KEY_HEADER, SECRET, behind, connection_to_valkey, patient

__all__ = ["connection_to_valkey", "patient"]


async def test_many_players_behind_one_address_are_no_attack_and_a_session_that_floods_is(api: httpx.AsyncClient) -> None:
    address = KEY_HEADER | behind("203.0.113.7")
    many = await asyncio.gather(*(api.post("/v1/reports", json=batch(), headers=address) for _ in range(300)))
    assert Counter(answer.status_code for answer in many) == {202: 300}
    one = batch()["session"]
    flood = await asyncio.gather(
        *(api.post("/v1/reports", json=batch(session=one), headers=address) for _ in range(3 * leases.SESSION.quota))
    )
    counts = Counter(answer.status_code for answer in flood)
    assert counts.keys() == {202, 429}
    assert counts[202] >= leases.SESSION.quota
    refused = next(answer for answer in flood if answer.status_code == 429)
    assert (refused.json()["code"], refused.headers["ratelimit-policy"]) == ("rate_limited", '"session";q=60;w=10')
    assert re.fullmatch(r'"session";r=0;t=\d+', refused.headers["ratelimit"])
    assert 1 <= int(refused.headers["retry-after"]) <= 10
    assert refused.headers["access-control-allow-origin"] == "*"
    assert (await api.post("/v1/reports", json=batch(), headers=address)).status_code == 202
    of_server = batch(
        session=None, reports=None, sessions=[{"session": one, "reports": [{"seq": 1, "at": now_ms(), "region": "r"}]}]
    )
    assert (await api.post("/v1/reports", json=of_server, headers={"authorization": f"Bearer {SERVER_KEY}"})).status_code == 202


@pytest.fixture
async def telemetry() -> AsyncIterator[Telemetry]:
    telemetry = Telemetry(settings.load(service_environ("postgresql://x")), "test")
    yield telemetry
    await telemetry.close()


async def test_a_session_sends_so_many_batches_in_a_window(
    connection_to_valkey: redis.Redis, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = Leases(Limits(connection_to_valkey, valkey.policy(), SECRET, telemetry.metrics), telemetry)
    await of.settle()  # the window begins
    session, other = (uuid4(), uuid4())
    for _ in range(leases.SESSION.quota):
        of.spend_session(session)
    with pytest.raises(errors.Problem, match="rate_limited"):
        of.spend_session(session)
    of.spend_session(other)
    of._session_window_ends = time.monotonic()
    await of.settle()
    of.spend_session(session)
    monkeypatch.setattr(leases, "SUBJECTS_MAX", 1)
    for _ in range(100):
        of.spend_session(other)  # nothing is known of those who come when all places are taken
    await of.close()


def test_until_valkey_has_answered_a_process_lends_one_lease() -> None:
    due = asyncio.Event()
    budget = Budget(Limit("few", 100, 1, 100), lambda subject: f"hash of {subject}", due)
    half = budget.lease // 2
    assert sum(not budget.spend("one") for _ in range(half - 1)) == half - 1
    assert budget.untold() == []  # who sends little is not told of
    assert sum(not budget.spend("one") for _ in range(50)) == budget.lease - half + 1
    assert due.is_set()
    [(number, charge)] = budget.untold()
    assert charge == Charge(budget.limit, "hash of one", budget.lease)
    assert sum(not budget.spend("other") for _ in range(50)) == budget.lease
    budget.settle(number, charge, 0)
    assert sum(not budget.spend("one") for _ in range(50)) == budget.lease
    [(number, charge), _] = budget.untold()
    budget.settle(number, charge, 300_000)
    assert 0.2 < budget.spend("one") <= 0.3
    budget.begin_window()
    assert 0.2 < budget.spend("one") <= 0.3  # for as long as Valkey has said
    [(_, charge)] = budget.untold()
    assert charge.subject == "hash of other"  # it is told of, though the window has ended


SPENDER = """
import asyncio, json, sys, time
from gamepulse import leases, settings, valkey
from gamepulse.limits import Limit, Limits
from gamepulse.telemetry import Telemetry
from gamepulse import errors

leases.KEY = Limit("key", int(sys.argv[1]), 1, int(sys.argv[1]))
valkey.TIMEOUT_S = 20  # a machine that is busy must not take Valkey to be away

async def main():
    print("ready", flush=True)
    begins = float(await asyncio.to_thread(sys.stdin.readline))
    configured = settings.load()
    telemetry = Telemetry(configured, "test")
    of = leases.Leases(Limits(valkey.connect(configured, 20), valkey.policy(), bytes(32), telemetry.metrics), telemetry)
    await asyncio.sleep(begins - time.time())
    ends, rate, allowed, asked = time.time() + float(sys.argv[2]), float(sys.argv[3]), 0, 0
    began = time.time()
    while time.time() < ends:
        while asked < (time.time() - began) * rate:
            asked += 1
            try:
                of.spend_key("one key")
                allowed += 1
            except errors.Problem:
                pass
        await asyncio.sleep(0.002)
    print(json.dumps({"allowed": allowed, "asked": asked}))

asyncio.run(main())
"""


async def _spend(valkey_url: str, quota: int, seconds: float, rates: list[float]) -> tuple[int, int]:
    """So many processes spend from one limit, each at its rate; what they were allowed and what they asked for, together."""
    environ = service_environ("postgresql://x", GAMEPULSE_VALKEY_URL=valkey_url)
    pipe = subprocess.PIPE
    programs = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", SPENDER, str(quota), str(seconds), str(rate), env=environ, stdin=pipe, stdout=pipe
        )
        for rate in rates
    ]
    for program in programs:
        assert program.stdout is not None
        assert await program.stdout.readline() == b"ready\n"
    begins = f"{time.time() + 0.5}\n".encode()
    said = [json.loads(out.splitlines()[-1]) for out, _ in await asyncio.gather(*(one.communicate(begins) for one in programs))]
    return sum(one["allowed"] for one in said), sum(one["asked"] for one in said)


@pytest.mark.usefixtures("connection_to_valkey")
async def test_three_processes_keep_one_limit_but_for_a_lease_each(valkey_url: str) -> None:
    quota, seconds = 400, 3.0
    allowed, asked = await _spend(valkey_url, quota, seconds, [600.0, 600.0, 600.0])
    assert asked > 3 * quota * seconds
    most = quota * (seconds + 1) + 3 * quota // leases.LEASES * math.ceil(seconds)
    assert quota < allowed <= most


class Simulated:
    """A process that spends of a limit and settles as Leases does, in a time of its own: ten times a second, answered 30 ms later."""

    def __init__(self, limit: Limit, store: Local, starts: float) -> None:
        self.budget = Budget(limit, str, asyncio.Event())
        self.store = store
        self.allowed = self.refused = 0
        self._settles = self._window_ends = starts
        self._told: list[tuple[int, Charge, Answer]] = []
        self._is_waiting = False

    def tick(self, now: float, asked: int) -> None:
        """Ask so often, and settle when it is time."""
        for _ in range(asked):
            if self.budget.spend("one"):
                self.refused += 1
            else:
                self.allowed += 1
        if self._is_waiting and now >= self._settles:
            for number, charge, answer in self._told:
                self.budget.settle(number, charge, answer.wait_us)
            self._is_waiting, self._settles = False, now + leases.SETTLE_EVERY_S
            if now >= self._window_ends:
                self.budget.begin_window()
                self._window_ends = now + leases.WINDOW_S
        elif not self._is_waiting and (now >= self._settles or self.budget._due.is_set()):
            self.budget._due.clear()
            of_each = self.budget.untold()
            self._told = [(number, charge, of(self.store.spend([charge], is_asked=False))[0]) for number, charge in of_each]
            self._is_waiting, self._settles = True, now + 0.03


def simulate(
    monkeypatch: pytest.MonkeyPatch, limit: Limit, processes: int, rate: float, hold: Callable[[float, int], None]
) -> list[Simulated]:
    """20 s in which so many processes share a limit and are asked at a rate together; `hold` is told of time and what was allowed."""
    now, tick_s, asked = 1000.0, 0.005, 0.0
    for module in (limits, leases):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    store = Local()
    of_all = [Simulated(limit, store, now + number / 37) for number in range(processes)]
    while now < 1020:
        now += tick_s
        asked += rate / processes * tick_s
        for one in of_all:
            one.tick(now, int(asked))
        asked %= 1
        hold(now - 1000, sum(one.allowed for one in of_all))
    return of_all


def of(answers: Coroutine[Any, Any, list[Answer]]) -> list[Answer]:
    """What a process's own store answers: it waits for nothing."""
    with pytest.raises(StopIteration) as done:
        answers.send(None)
    found: list[Answer] = done.value.value
    return found


@pytest.mark.parametrize("processes", [1, 3, 8])
def test_in_a_simulation_no_flood_gets_more_than_the_limit_and_leases(monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    limit = Limit("few", 1000, 1, 1000)
    lease = limit.quota // leases.LEASES

    def hold(took_s: float, allowed: int) -> None:
        assert allowed <= limit.burst + limit.quota * took_s + processes * lease * (1 + took_s)

    flood = simulate(monkeypatch, limit, processes, 3000, hold)
    assert sum(one.allowed for one in flood) >= 0.95 * limit.quota * 20


@pytest.mark.parametrize("processes", [1, 3, 8])
def test_in_a_simulation_nobody_who_stays_within_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    calm = simulate(monkeypatch, Limit("few", 1000, 1, 1000), processes, 990, lambda *_: None)
    assert sum(one.refused for one in calm) == 0
    assert sum(one.allowed for one in calm) > 19_000
