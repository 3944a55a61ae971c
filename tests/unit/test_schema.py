"""What is accepted is what the published JSON Schema says: compared with a validator that is not ours; and nothing crashes."""

import random
import time

import pytest
from hypothesis import given
from litestar import Litestar

from gamepulse import errors, receive
from gamepulse.batch import BODY_EXPANDED_BYTES_MAX
from gamepulse.serve.reports import reports_route
from tests.batches import batch, event, report
from tests.rubbish import FACTOR, Published, Verdict, batches, examples, mutated, without_hint, written

DECODE_S_MAX = 0.5
"""CPU time of the worst body that we could think of; it takes about 0.1 s."""


@pytest.fixture(scope="module")
def published() -> Published:
    return Published(Litestar([reports_route]).openapi_schema.to_schema())


def decoded(body: bytes) -> Verdict | None:
    """What the service accepts, in the validator's words; None: refused as a whole."""
    try:
        content = receive.decode(body)
    except errors.Problem:
        return None
    accepted = sum(len(session.reports) + len(session.events) for session in content.sessions)
    bad = {without_hint(rejection.pointer) for rejection in content.rejected}
    assert len(bad) == len(content.rejected)
    assert {rejection.code for rejection in content.rejected} <= errors.KINDS.keys()
    return Verdict({str(n) for n in range(accepted)}, bad)


@examples(3_000)
@given(batches())
def test_acceptance_is_what_the_published_schema_says(published: Published, body: bytes) -> None:
    expected, got = published.verdict(body), decoded(body)
    assert (expected is None) == (got is None), body
    if expected is not None and got is not None:
        assert (len(got.good), got.bad) == (len(expected.good), expected.bad), body


def test_the_published_schema_knows_one_session_from_many(published: Published) -> None:
    inline, sessions = batch(), [{"session": batch()["session"], "reports": [report()]}]
    many = {name: inline[name] for name in ("batch_id", "game", "sent_at")} | {"sessions": sessions}
    for sent, is_good in (
        (inline, True), (inline | {"sessions": None}, True), (many, True), (many | {"session": None, "reports": []}, True),
        (inline | {"sessions": sessions}, False), (many | {"session": inline["session"]}, False),
        (many | {"events": [event()]}, False), (many | {"sessions": [*sessions, {}]}, False),
        ({name: held for name, held in inline.items() if name != "session"}, False),
    ):  # fmt: skip
        body = written(sent).encode()
        assert [published.verdict(body) is not None, decoded(body) is not None] == [is_good, is_good], sent


def test_bytes_that_are_not_quite_a_batch_crash_nothing() -> None:
    chance = random.Random(20261124 if FACTOR == 1 else None)
    sessions = [{"session": batch()["session"], "reports": [report(), report(loss=0.5, quality="good")]}]
    bodies = [written(batch(3, [event(reason="lag")])).encode(), written(batch(None, session=None, sessions=sessions)).encode()]
    bodies.append(written(batch([report(seq=-1), report(region="é")], extra={"a": [1, None]})).encode())
    for _ in range(50_000 * FACTOR):
        decoded(mutated(chance, bodies))


def test_no_body_takes_long() -> None:
    """Rubbish costs most: each bad item is told, and is part of the batch's fingerprint."""
    size = (BODY_EXPANDED_BYTES_MAX - 400) // 500 - 1
    items = {
        "lists": b"[" * (size // 2) + b"]" * (size // 2), "numbers": b"[" + b",".join([b"1"] * (size // 2 - 1)) + b"]",
        "fractions": b"[" + b",".join([b"1.2345678901234567e-300"] * (size // 24)) + b"]", "digits": b"9" * size,
        "names": b"{" + b",".join(b'"%x":1' % n for n in range(size // 10)) + b"}", "text": b'"' + b"\\u00e9" * (size // 6 - 1) + b'"',
    }  # fmt: skip
    for name, item in items.items():
        body = written(batch([])).encode().replace(b"[]", b"[" + b",".join([item] * 500) + b"]")
        assert len(body) <= BODY_EXPANDED_BYTES_MAX
        started = time.process_time()
        assert decoded(body) == Verdict(set(), {f"/reports/{n}" for n in range(500)}), name
        assert time.process_time() - started < DECODE_S_MAX, name
