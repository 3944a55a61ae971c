"""Distinct counts: within 3 % of the exact ones, and exactly the same in whatever order they are put together."""

import random
import uuid

import numpy as np
import pytest

from gamepulse import sketch
from gamepulse.sketch import Ints

NONE = np.zeros(0, dtype=np.int64)


def ids(count: int, kind: str) -> bytes:
    """So many different UUIDs, of kinds that a hash could stumble over."""
    rng = np.random.default_rng(count)
    if kind == "counted up":
        return b"".join(number.to_bytes(16) for number in range(count))
    if kind == "one machine's (version 1)":
        return b"".join(uuid.UUID(fields=(n, 0, 0x1000, 0x80, 0, 0x0123456789AB)).bytes for n in range(count))
    if kind == "by time (version 7)":
        return b"".join((1_790_000_000_000 + n // 3).to_bytes(6) + b"\x70" + rng.bytes(9) for n in range(count))
    return rng.bytes(16 * count)


def united(entries: list[Ints]) -> Ints:
    joined = np.concatenate([NONE, *entries])
    return sketch.union(np.zeros_like(joined), joined, 1)[1]


def counted(entry: Ints) -> int:
    return int(sketch.count(np.zeros_like(entry), entry, 1)[0])


@pytest.mark.parametrize("kind", ["random", "counted up", "one machine's (version 1)", "by time (version 7)"])
@pytest.mark.parametrize("sessions", [0, 1, 21, 300, 2_047, 2_048, 5_000, 100_000])
def test_counts_are_within_three_percent_in_any_merge_order(sessions: int, kind: str) -> None:
    coupons = sketch.coupons(ids(sessions, kind))
    whole = united([coupons])
    assert counted(whole) == pytest.approx(sessions, rel=0.03 if sessions > sketch.COUPONS_MAX else 0.002)
    rng = random.Random(sessions)
    for _ in range(3):
        cuts = sorted(rng.randrange(sessions + 1) for _ in range(6))
        parts = [united([part]) for part in np.split(coupons, cuts)]
        parts += [united([coupons[: sessions // 2]])]  # seen twice
        rng.shuffle(parts)
        while len(parts) > 1:
            parts.append(united([parts.pop(rng.randrange(len(parts))), parts.pop(rng.randrange(len(parts)))]))
        assert np.array_equal(parts[0], whole)


def test_what_is_written_is_read_again() -> None:
    kept = [united([sketch.coupons(ids(sessions, "random"))]) for sessions in (0, 3, 2_047, 2_048, 50_000)]
    encoded = [sketch.encode(entry) for entry in kept]
    assert [len(one) for one in encoded] == [0, 12, 4 * 2_047, sketch.REGISTERS, sketch.REGISTERS]
    assert sketch.counts(encoded).tolist() == [counted(one) for one in kept]


@pytest.mark.parametrize("sizes", [[0, 3], [1_000, 1_047], [1_000, 1_048], [3, 2_048], [2_048, 2_047, 50_000], [3_000, 9_000]])
def test_bytes_are_united_like_entries(sizes: list[int]) -> None:
    parts = np.split(sketch.coupons(ids(sum(sizes), "random")), np.cumsum(sizes)[:-1])
    parts = [united([part]) for part in [*parts, parts[0]]]
    alone = sketch.coupons(ids(7, "random"))
    encoded = [sketch.encode(part) for part in [*parts, alone]]
    assert sketch.together(encoded, np.array([2] * len(parts) + [0]), 3) == [
        sketch.encode(united([alone])), b"", sketch.encode(united(parts))
    ]  # fmt: skip


def test_the_error_is_what_the_number_of_registers_says() -> None:
    """1.04 / √8192 = 1.15 %: of 400 counts, at most a few are more than 3 % off."""
    sessions = 20_000
    coupons = sketch.coupons(np.random.default_rng(9).bytes(16 * sessions * 400))
    owner = np.repeat(np.arange(400), sessions)
    owner, entry = sketch.union(owner, coupons, 400)
    errors = sketch.count(owner, entry, 400) / sessions - 1
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(0.0115, rel=0.2)
    assert np.mean(np.abs(errors) > 0.03) <= 0.02
    assert sketch.together([], NONE, 1) == [b""]
    assert sketch.counts([b""]).tolist() == [0]
