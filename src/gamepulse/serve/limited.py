"""How much each asker may ask: looked at before a route is run, told by its answer. A route may ask for more limits."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar.types import Message, Scope

from gamepulse import asker, errors, limits
from gamepulse.limits import Answer, Charge, Limit
from gamepulse.serve.reader import Asked, reader_of

_WITHOUT_SIGN_IN = frozenset({("POST", "/v1/sign-ins"), ("POST", "/v1/accounts")})
"""A token that comes along means nothing there."""


async def before_request(request: Asked) -> None:
    """One request of the asker's. Raises Problem RATE_LIMITED."""
    path: str = request.scope["path"]
    if not path.startswith(("/v1/", "/docs/schema/")):
        return
    subject = await _subject(request)
    request.scope["state"]["subject"] = subject
    if subject is None:
        return
    limit, who = subject
    charges = [Charge(limit, who)]
    if path.startswith("/v1/quality") or "/sessions" in path:  # not begun when the asker's questions have taken too much of late
        charges.append(Charge(limits.QUESTIONS, f"{limit.name}-{who}", 0))
    await _ask(request, *charges)


async def spend(request: Asked, *charges: tuple[Limit, str]) -> None:
    """Also of these limits, each of a subject that is kept under a hash. Raises Problem RATE_LIMITED."""
    of = reader_of(request).limits
    await _ask(request, *(Charge(limit, of.hashed(subject)) for limit, subject in charges if subject))


async def give_back(request: Asked, limit: Limit, subject: str) -> None:
    """All of it, and the answer says so."""
    of = reader_of(request).limits
    await of.forget(limit, of.hashed(subject))
    _told(request.scope)[limit] = Answer(0, limit.burst, 0)


def client_of(request: Asked) -> str:
    """What counts as one client; empty for who asks from the machine itself."""
    peer = request.scope["client"]
    found = reader_of(request).geography.client(peer[0] if peer else "", dict(request.scope["headers"]))
    return limits.client_of(found.address)


async def before_send(message: Message, scope: Scope) -> None:
    """The answer tells how much is left."""
    if message["type"] == "http.response.start":
        there, told = {name for name, _ in message["headers"]}, _told(scope)
        more = limits.headers(told.items()).items() if told else ()
        message["headers"] = [*message["headers"], *((a.encode(), b.encode()) for a, b in more if a.encode() not in there)]


@asynccontextmanager
async def asking(request: Asked) -> AsyncIterator[None]:
    """A place for a question that may cost much; the time for which it is taken is the asker's. Raises Problem BUSY."""
    reader = reader_of(request)
    async with reader.asking():
        began = time.monotonic()
        try:
            yield
        finally:
            subject = request.scope["state"].get("subject")
            if subject is not None:
                spent_ms = round((time.monotonic() - began) * 1000)
                await reader.limits.tell(Charge(limits.QUESTIONS, f"{subject[0].name}-{subject[1]}", spent_ms))


async def _ask(request: Asked, *charges: Charge) -> None:
    if not charges:
        return
    answers = await reader_of(request).limits.ask(*charges)
    _told(request.scope).update((charge.limit, answer) for charge, answer in zip(charges, answers, strict=True))


def _told(scope: Scope) -> dict[Limit, Answer]:
    """What the answer tells of limits."""
    told: dict[Limit, Answer] = scope["state"].setdefault("limits", {})
    return told


async def _subject(request: Asked) -> tuple[Limit, str] | None:
    """Whose request it is: an account's, else an address's; nobody's when it comes from the machine itself."""
    client = client_of(request)
    if not client:
        return None
    reader = reader_of(request)
    request.scope["state"]["client"] = client
    try:
        found = await reader.askers.find(asker.given(request.headers, request.cookies), client)
    except errors.Problem as problem:
        if problem.kind is errors.RATE_LIMITED and (request.method, request.scope["path"]) not in _WITHOUT_SIGN_IN:
            raise
        found = asker.ANYONE  # PostgreSQL cannot say, or too many strangers wait for what it says
    if found.account_id is not None:
        return limits.ACCOUNT, str(found.account_id)
    return limits.ADDRESS, reader.limits.hashed(client)
