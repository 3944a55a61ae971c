"""The packed form in which a batch's reports are stored: 30 bytes a report, all fields little-endian. See docs/records.md."""

from collections.abc import Sequence
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from gamepulse.batch import JITTER_METHODS, QUALITIES, SIDES, Report

UNKNOWN = 0xFFFFFFFF
RECORD = np.dtype(
    [
        ("at_ms", "<i4"),  # milliseconds after (or before) the batch's arrival
        ("seq", "<u4"),
        ("rtt_us", "<u4"),  # UNKNOWN where the client did not know
        ("rtt_min_us", "<u4"),
        ("rtt_max_us", "<u4"),
        ("jitter_us", "<u4"),
        ("loss_ppm", "<u4"),
        ("flags", "u1"),  # quality + 8 × jitter method + 32 × side, each 0 = not given
        ("place", "u1"),  # counts into the batch's `places`
    ]
)
PLACES_MAX = 256
"""Different (region, server) pairs in one session's part of a batch."""

_numbers = attrgetter("rtt_ms", "rtt_min_ms", "rtt_max_ms", "jitter_ms", "loss")
_FLAGS = {
    (quality, method, side): quality_code + 8 * method_code + 32 * side_code
    for quality_code, quality in enumerate((None, *QUALITIES))
    for method_code, method in enumerate((None, *JITTER_METHODS))
    for side_code, side in enumerate((None, *SIDES))
}
_flags = attrgetter("quality", "jitter_method", "side")
_SCALES = np.array([1e3, 1e3, 1e3, 1e3, 1e6])


def pack(reports: Sequence[Report], at_ms: Sequence[int], places: Sequence[int]) -> memoryview:
    """Records of many reports at once, one after another (vectorised: about 0.5 µs a report).

    `at_ms` are milliseconds relative to each report's arrival; `places` index into the part's places.
    """
    packed = np.empty(len(reports), RECORD)
    packed["at_ms"] = at_ms
    packed["seq"] = [report.seq for report in reports]
    numbers = np.array([_numbers(report) for report in reports], dtype=np.float64).reshape(-1, 5)
    known = ~np.isnan(numbers)
    numbers = np.where(known, np.rint(numbers * _SCALES), UNKNOWN)
    for column, name in enumerate(("rtt_us", "rtt_min_us", "rtt_max_us", "jitter_us", "loss_ppm")):
        packed[name] = numbers[:, column]
    packed["flags"] = [_FLAGS[_flags(report)] for report in reports]
    packed["place"] = places
    return memoryview(packed.tobytes())


def unpack(records: bytes) -> npt.NDArray[np.void]:
    """The records of one or more parts, as a structured array of RECORD."""
    return np.frombuffer(records, RECORD)


def quality_codes(records: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    """0 = not given, then 1 + the position in QUALITIES."""
    return (records["flags"] & 7).astype(np.int64)


def jitter_method(flags: int) -> str | None:
    """The jitter method in a record's flags."""
    return (None, *JITTER_METHODS)[flags >> 3 & 3]


def side(flags: int) -> str | None:
    """The side that measured, in a record's flags."""
    return (None, *SIDES)[flags >> 5 & 3]


def quality(flags: int) -> str | None:
    """The client's own quality word in a record's flags."""
    return (None, *QUALITIES)[flags & 7]
