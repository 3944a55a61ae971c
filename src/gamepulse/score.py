"""How good a connection is in one word or number: Mirror's band, Cloudflare's class for games, ITU-T's score for voice."""

from typing import Final, NamedTuple

BANDS_S: Final = (("excellent", 0.1), ("good", 0.2), ("fair", 0.4))
"""Upper limits of round-trip time; beyond is poor (Mirror Networking, connection quality by RTT)."""
_LATENCY_POINTS = ((10, 20), (20, 10), (50, 5), (100, 0), (500, -10))
_LOSS_POINTS = ((0.01, 10), (0.05, 5), (0.25, 0), (0.5, -10))
_CLASSES = ((5, "bad"), (15, "poor"), (25, "average"), (30, "good"))


class Score(NamedTuple):
    """AIM's points, −40 to 30; their class, where loss is known; what costs most of them, in words."""

    points: int
    class_: str | None
    reason: str | None


def band(rtt_ms: float) -> str:
    """Mirror's band of a round-trip time."""
    return next((name for name, limit in BANDS_S if rtt_ms <= limit * 1e3), "poor")


def aim(rtt_ms: float, loss: float | None) -> Score:
    """Points for latency and loss (0 to 1), and their class for games (Cloudflare's Aggregated Internet Measurement).

    AIM adds points for how much latency rises under load, which nobody measures here: it counts 0, as a rise of 50 to 100 ms
    does. So the class is the least that AIM could say, which gives up to 20 points for a line that does not slow down.
    """
    latency = next((points for limit, points in _LATENCY_POINTS if rtt_ms < limit), -20)
    lossy = 0 if loss is None else next((points for limit, points in _LOSS_POINTS if loss < limit), -20)
    reason = f"RTT {rtt_ms:.0f} ms" if latency < 20 else None
    if loss is not None and 10 - lossy > 20 - latency:
        reason = f"loss {loss * 100:.1f} %"
    class_ = None if loss is None else next((name for limit, name in _CLASSES if latency + lossy < limit), "great")
    return Score(latency + lossy, class_, reason)


_PACKET_MS = 20.0
_JITTER_BUFFER = 2.0
"""Its length, in jitters."""
_R_DEFAULT = 93.2
_BPL = 25.1


def mos(rtt_ms: float, jitter_ms: float, loss: float) -> float:
    """What people would say of voice over this connection, 1 to 4.5 (ITU-T G.107, the E-model, with its defaults but for these).

    Delay: half the round trip, a packet of 20 ms and a buffer of two jitters, impairing as Cole & Rosenbluth simplify it ("Voice
    over IP performance monitoring", 2001). Loss: random, of G.711 with concealment (ITU-T G.113: Ie 0, Bpl 25.1).
    """
    delay_ms = rtt_ms / 2 + _JITTER_BUFFER * jitter_ms + _PACKET_MS
    impaired = 0.024 * delay_ms + 0.11 * max(delay_ms - 177.3, 0)
    lost = 95 * (loss * 100) / (loss * 100 + _BPL)
    return opinion(_R_DEFAULT - impaired - lost)


def opinion(r: float) -> float:
    """The mean opinion score of a transmission rating factor R up to 100 (ITU-T G.107, Annex B), which dips below 1 near R = 0."""
    return max(1 + 0.035 * r + 7e-6 * r * (r - 60) * (100 - r), 1.0) if r > 0 else 1.0
