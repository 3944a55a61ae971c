"""Rate limits: how much each asker may ask, counted in Valkey for all processes, or in this one while Valkey is away.

The generic cell rate algorithm (ITU-T I.371, annex A; docs/adr/0031): of each asker, the moment when all that was spent is free.
An address or a name is kept under a hash only, whose key is another each day, and no longer than its limit needs.
"""

import hashlib
import math
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import islice
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple, Protocol

import redis.asyncio as redis

from gamepulse import errors, metrics, valkey
from gamepulse.metrics import Metrics
from gamepulse.resilience import Open, Policy

SUBJECTS_MAX = 100_000
"""Remembered by a process, for when Valkey is away; then the oldest is forgotten."""


class Limit(NamedTuple):
    """`quota` in `window_s`, and of that no more than `burst` at once. `unit`: as RateLimit-Policy names it (`qu`)."""

    name: str
    quota: int
    window_s: int
    burst: int
    unit: str = "requests"

    @property
    def each_us(self) -> float:
        """In which one is free again."""
        return self.window_s * 1e6 / self.quota


ACCOUNT = Limit("account", 600, 60, 60)
ADDRESS = Limit("address", 300, 60, 60)
"""Of who is not signed in."""
UNKNOWN_SECRETS = Limit("unknown-secrets", 300, 60, 60)
"""Keys and tokens that nobody has, of an address; told when they have been looked up, asked before the next one is (keys.py)."""
QUESTIONS = Limit("questions", 30_000, 60, 10_000, "milliseconds")
"""What an asker's questions took of a place among those that are answered (serve.reader.QUESTIONS_MAX); told afterwards."""
SIGN_INS_NAME = Limit("sign-ins-name", 10, 900, 10)
"""With a wrong password or code: one that succeeds gives all back."""
SIGN_INS_ADDRESS = Limit("sign-ins-address", 60, 900, 60)
REGISTRATIONS = Limit("registrations", 20, 3600, 20)
ANCESTOR = Limit("ancestor", 60, 60, 60)


class Charge(NamedTuple):
    """So much of a limit, by one subject (an account's number, or a hash)."""

    limit: Limit
    subject: str
    cost: int = 1


class Answer(NamedTuple):
    """`wait_us`: 0, or when it may be asked again; how much is left; when all is free again."""

    wait_us: int
    left: int
    reset_us: int


class Store(Protocol):
    """Where it is counted what was spent. `is_asked`: all or nothing, when one refuses; else it is spent already."""

    async def spend(self, charges: Sequence[Charge], is_asked: bool) -> list[Answer]: ...

    async def forget(self, limit: Limit, subject: str) -> None: ...


class Shared:
    """In Valkey."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        self._script = connection.register_script(files("gamepulse").joinpath("limits.lua").read_text())

    async def spend(self, charges: Sequence[Charge], is_asked: bool) -> list[Answer]:
        arguments: list[str | float] = ["ask" if is_asked else "tell"]
        for limit, _, cost in charges:
            arguments += (limit.each_us, limit.burst, cost)
        rows = await self._script([_key(limit, subject) for limit, subject, _ in charges], arguments)
        return [Answer(*row) for row in rows]

    async def forget(self, limit: Limit, subject: str) -> None:
        await self._connection.delete(_key(limit, subject))


class Local:
    """In this process alone: the same as limits.lua."""

    def __init__(self) -> None:
        self._free_at: dict[str, float] = {}

    async def spend(self, charges: Sequence[Charge], is_asked: bool) -> list[Answer]:
        now, found = int(time.monotonic() * 1e6), []  # whole, or sums would be rounded: all that is free could then lack 1 µs
        for limit, subject, cost in charges:
            before = max(self._free_at.get(_key(limit, subject), 0.0), now)
            after = before + cost * limit.each_us
            wait = max(0.0, after + (0 if is_asked else limit.each_us) - now - limit.burst * limit.each_us)
            found.append((before, after, wait))
        is_refused = is_asked and any(wait > 0 for _, _, wait in found)
        answers = []
        for (limit, subject, _), (before, after, wait) in zip(charges, found, strict=True):
            free_at = before if is_refused else after
            if free_at > now and not is_refused:
                self._put(_key(limit, subject), free_at, now)
            left = math.floor(limit.burst - (free_at - now) / limit.each_us)
            answers.append(Answer(math.ceil(wait), max(0, left), math.ceil(free_at - now)))
        return answers

    async def forget(self, limit: Limit, subject: str) -> None:
        self._free_at.pop(_key(limit, subject), None)

    def _put(self, key: str, free_at: float, now: float) -> None:
        """Besides, forget the oldest two if all is free for them: so what is not needed goes sooner than more can come."""
        self._free_at.pop(key, None)
        for oldest in tuple(islice(self._free_at, 2)):
            if self._free_at[oldest] <= now or len(self._free_at) >= SUBJECTS_MAX:
                del self._free_at[oldest]
        self._free_at[key] = free_at


def _key(limit: Limit, subject: str) -> str:
    return f"gamepulse:limit:{limit.name}:{subject}"


class Limits:
    """Asks Valkey, and this process's own store while Valkey is away: it has counted along, so nobody has all again by that."""

    def __init__(self, connection: redis.Redis, policy: Policy, secret: bytes, counted: Metrics) -> None:
        self._shared = Shared(connection)
        self._local = Local()
        self._policy = policy
        self._secret = secret
        self._counted = counted
        self.is_shared = True
        """So it was the last time: what was spent is counted by Valkey."""

    async def ask(self, *charges: Charge) -> list[Answer]:
        """Spend on all of them, or on none. Raises Problem RATE_LIMITED."""
        answers = await self.spend(charges, is_asked=True)
        wait_us = max(answer.wait_us for answer in answers)
        for charge, answer in zip(charges, answers, strict=True):
            self._counted.add(metrics.LIMIT_CHECKS, 1, charge.limit.name, "refused" if answer.wait_us else "allowed")
        if wait_us:
            raise refusal(wait_us / 1e6, headers((charge.limit, answer) for charge, answer in zip(charges, answers, strict=True)))
        return answers

    async def tell(self, charge: Charge) -> None:
        """It has been spent, whatever was left."""
        await self.spend([charge], is_asked=False)

    async def spend(self, charges: Sequence[Charge], is_asked: bool) -> list[Answer]:
        """As Store.spend; by Valkey, if it answers."""
        try:
            async with self._policy.guarded(), valkey.in_time():
                answers = await self._shared.spend(charges, is_asked)
        except (Open, *valkey.AWAY):  # asking again would hold up the request, and this process can count by itself
            self.is_shared = False
            return await self._local.spend(charges, is_asked)
        self.is_shared = True
        if not (is_asked and any(answer.wait_us for answer in answers)):
            await self._local.spend(charges, is_asked=False)
        return answers

    async def forget(self, limit: Limit, subject: str) -> None:
        """All is free again."""
        await self._local.forget(limit, subject)
        try:
            await self._policy.call(lambda: self._shared.forget(limit, subject))
        except (Open, *valkey.AWAY):
            return

    def hashed(self, text: str) -> str:
        """A subject that must not be told: another each day, without the service's secret nobody's."""
        return hashlib.blake2b(text.encode(), digest_size=16, key=_day_key(self._secret, int(time.time()) // 86_400)).hexdigest()


@lru_cache(maxsize=2)
def _day_key(secret: bytes, day: int) -> bytes:
    return hashlib.blake2b(day.to_bytes(8), digest_size=32, key=secret, person=b"limits").digest()


_IPV4_MAPPED = bytes(10) + b"\xff\xff"
_LOOPBACK6 = bytes(15) + b"\x01"


def client_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 one, all of which a client has. Empty: this machine.

    All that are no addresses are one client together: any other could be made up.
    """
    if not address:
        return ""
    try:
        packed = inet_pton(AF_INET6 if ":" in address else AF_INET, address)
    except (OSError, ValueError):  # ValueError: a NUL in it
        return "unknown"
    if packed == _LOOPBACK6:
        return ""
    if len(packed) == 16 and not packed.startswith(_IPV4_MAPPED):
        return packed[:8].hex()
    return "" if packed[-4] == 127 else inet_ntop(AF_INET, packed[-4:])


def headers(told: Iterable[tuple[Limit, Answer]]) -> dict[str, str]:
    """RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10)."""
    policies, states = [], []
    for limit, (_, left, reset_us) in told:
        unit = "" if limit.unit == "requests" else f';qu="{limit.unit}"'
        policies.append(f'"{limit.name}";q={limit.quota}{unit};w={limit.window_s}')
        states.append(f'"{limit.name}";r={left};t={math.ceil(reset_us / 1e6)}')
    return {"ratelimit-policy": ", ".join(policies), "ratelimit": ", ".join(states)}


def refusal(wait_s: float, more_headers: dict[str, str]) -> errors.Problem:
    """RATE_LIMITED, with when to try again."""
    return errors.Problem(errors.RATE_LIMITED, headers={"retry-after": str(max(1, math.ceil(wait_s))), **more_headers})
