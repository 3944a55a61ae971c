"""The packed form in which a session's part of a batch is stored: 26 bytes a report, its labels in one text (docs/records.md)."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec.structs import astuple

from gamepulse.batch import JITTER_METHODS, QUALITIES, SIDES, Report

RECORD = np.dtype(
    [
        ("at_ms", "<i4"),  # milliseconds after (or before) the batch's arrival
        ("seq", "<u4"),
        ("rtt", "<u4"),  # a measure's lower 26 bits: µs, all set where the client did not know; the upper 6: see pack()
        ("rtt_min", "<u4"),
        ("rtt_max", "<u4"),
        ("jitter", "<u4"),
        ("loss_low", "<u2"),
    ]
)
MEASURE_BITS = 26
UNKNOWN_MEASURE = (1 << MEASURE_BITS) - 1
UNKNOWN_LOSS = (1 << 20) - 1
UNKNOWN = 0xFFFFFFFF
"""What stands for each unknown measure once unpacked."""
PLACES_MAX = 256
"""Different (region, server) pairs in one session's part of a batch."""
UNPACKED = np.dtype(
    [
        ("at_ms", "<i4"),
        ("seq", "<u4"),
        ("rtt_us", "<u4"),
        ("rtt_min_us", "<u4"),
        ("rtt_max_us", "<u4"),
        ("jitter_us", "<u4"),
        ("loss_ppm", "<u4"),
        ("quality", "u1"),  # 0 = not given, then 1 + the position in QUALITIES; so the next two
        ("jitter_method", "u1"),
        ("side", "u1"),
        ("place", "u1"),  # counts into the part's places
    ]
)
LABELS = ("country", "subdivision", "network", "connection", "platform", "build")


class Columns(NamedTuple):
    """Reports as columns, in the order of Report's fields."""

    seq: tuple[int, ...] = ()
    at: tuple[int, ...] = ()
    region: tuple[str, ...] = ()
    side: tuple[str | None, ...] = ()
    server: tuple[str | None, ...] = ()
    rtt_ms: tuple[float | None, ...] = ()
    rtt_min_ms: tuple[float | None, ...] = ()
    rtt_max_ms: tuple[float | None, ...] = ()
    jitter_ms: tuple[float | None, ...] = ()
    jitter_method: tuple[str | None, ...] = ()
    loss: tuple[float | None, ...] = ()
    quality: tuple[str | None, ...] = ()


assert Columns._fields == Report.__struct_fields__


def columns(reports: Iterable[Report]) -> Columns:
    """Reports as columns."""
    return Columns(*zip(*map(astuple, reports), strict=True))


_QUALITY_SIDES = {
    (quality, side): quality_code | side_code << 3
    for quality_code, quality in enumerate((None, *QUALITIES))
    for side_code, side in enumerate((None, *SIDES))
}
_METHODS = {method: code for code, method in enumerate((None, *JITTER_METHODS))}


def pack(parts: Sequence[Columns], places: Iterable[Sequence[int]], arrivals_ms: Sequence[int]) -> list[memoryview]:
    """The records of each part, all packed at once (vectorised: 0.2 µs a report).

    `places` index into each part's places; `arrivals_ms`, for each part: when it arrived, on the clock that its `at` is on.
    """
    counts = [len(part.seq) for part in parts]
    packed = np.empty(sum(counts), RECORD)
    packed["at_ms"] = np.array(_joined(part.at for part in parts), np.int64) - np.repeat(np.array(arrivals_ms, np.int64), counts)
    packed["seq"] = _joined(part.seq for part in parts)
    pairs = zip(_joined(part.quality for part in parts), _joined(part.side for part in parts), strict=True)
    packed["rtt"] = _measure(part.rtt_ms for part in parts) | _spare(map(_QUALITY_SIDES.__getitem__, pairs))
    place = np.array(_joined(places), np.uint32)
    packed["rtt_min"] = _measure(part.rtt_min_ms for part in parts) | place >> 6 << MEASURE_BITS
    packed["rtt_max"] = _measure(part.rtt_max_ms for part in parts) | (place & 63) << MEASURE_BITS
    loss = _scaled(_joined(part.loss for part in parts), 1e6, UNKNOWN_LOSS)
    methods = _spare(map(_METHODS.__getitem__, _joined(part.jitter_method for part in parts)))
    packed["jitter"] = _measure(part.jitter_ms for part in parts) | methods | loss >> 16 << MEASURE_BITS + 2
    packed["loss_low"] = loss & 0xFFFF
    every = memoryview(packed.tobytes())
    bounds = accumulate((count * RECORD.itemsize for count in counts), initial=0)
    return [every[start:end] for start, end in pairwise(bounds)]


def _joined[T](columns: Iterable[Sequence[T]]) -> list[T]:
    return list(chain.from_iterable(columns))


def _measure(columns: Iterable[Sequence[float | None]]) -> npt.NDArray[np.uint32]:
    return _scaled(_joined(columns), 1e3, UNKNOWN_MEASURE)


def _scaled(values: list[float | None], scale: float, unknown: int) -> npt.NDArray[np.uint32]:
    scaled: npt.NDArray[np.float64] = np.rint(np.array(values, np.float64) * scale)  # None becomes NaN
    scaled[np.isnan(scaled)] = unknown
    return scaled.astype(np.uint32)


def _spare(codes: Iterable[int]) -> npt.NDArray[np.uint32]:
    spare: npt.NDArray[np.uint32] = np.array(list(codes), np.uint32) << np.uint32(MEASURE_BITS)
    return spare


def unpack(records: bytes) -> npt.NDArray[np.void]:
    """The records of one or more parts, as a structured array of UNPACKED."""
    packed = np.frombuffer(records, RECORD)
    unpacked = np.empty(len(packed), UNPACKED)
    unpacked["at_ms"], unpacked["seq"] = packed["at_ms"], packed["seq"]
    for name in ("rtt", "rtt_min", "rtt_max", "jitter"):
        measure = packed[name] & UNKNOWN_MEASURE
        unpacked[f"{name}_us"] = np.where(measure == UNKNOWN_MEASURE, UNKNOWN, measure)
    loss = packed["jitter"] >> MEASURE_BITS + 2 << 16 | packed["loss_low"]
    unpacked["loss_ppm"] = np.where(loss == UNKNOWN_LOSS, UNKNOWN, loss)
    unpacked["quality"] = packed["rtt"] >> MEASURE_BITS & 7
    unpacked["side"] = packed["rtt"] >> MEASURE_BITS + 3
    unpacked["jitter_method"] = packed["jitter"] >> MEASURE_BITS & 3
    unpacked["place"] = packed["rtt_min"] >> MEASURE_BITS << 6 | packed["rtt_max"] >> MEASURE_BITS
    return unpacked


def quality_codes(unpacked: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    """0 = not given, then 1 + the position in QUALITIES."""
    return unpacked["quality"].astype(np.int64)


def join_labels(labels: Iterable[str | None], places: Iterable[tuple[str, str | None]]) -> str:
    """A part's LABELS and places as they are stored; none of them holds a `|`, a comma or a space."""
    named = ",".join([f"{region} {server or ''}" for region, server in places])
    return "|".join([label or "" for label in labels]) + "|" + named


def split_labels(joined: str) -> tuple[list[str | None], list[tuple[str, str | None]]]:
    """What join_labels() made: LABELS, and the (region, server) pairs that a record's `place` counts into."""
    *labels, named = joined.split("|")
    places = [place.split(" ") for place in named.split(",")] if named else []
    return [label or None for label in labels], [(region, server or None) for region, server in places]
