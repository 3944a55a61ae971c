"""Balancing the books: what the ledger promises = PostgreSQL = the rollups = what the API tells = Prometheus' counters."""

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx

from tests.batches import Json
from tests.faults.clients import SEQS, Broken, Ledger
from tests.faults.machine import Machine

AGREE_WITHIN_S = 90
NAMED_MAX = 5
ENDED_S = 180
"""An hour or a day is rolled up by then after its end."""
# A batch's reports as the client's ledger writes them down: clients._row.
REPORTS = f"""
SELECT seq / {SEQS} AS batch, count(*) AS reports,
    md5(string_agg(concat_ws(' ', seq, (extract(epoch FROM at) * 1000)::bigint, region, server, (rtt_ms * 1000)::bigint,
        (loss * 1000000)::bigint), ',' ORDER BY seq)) AS hash
FROM raw_batch, raw_reports(raw_batch) WHERE received_at >= $1 GROUP BY 1"""
EVENTS = f"""
SELECT seq / {SEQS} AS batch, array_agg(kind ORDER BY kind COLLATE "C") AS kinds
FROM raw_batch CROSS JOIN jsonb_to_recordset(events) AS event (seq bigint, kind text) WHERE received_at >= $1 GROUP BY 1"""
KEYS = "SELECT batch_id::text, accepted FROM batch_key WHERE received_at >= $1"
TOTALS = """
SELECT (SELECT count(*) FROM batch_key) AS batches, (SELECT sum(accepted) FROM batch_key) AS accepted, count(*) AS parts,
    sum(rejected) AS rejected, count(DISTINCT session_id) AS sessions FROM raw_batch"""
ROLLUP = "SELECT dimension_set, extract(epoch FROM start)::bigint AS start, sum(reports) AS reports FROM {table} GROUP BY 1, 2"
RECENT = """
SELECT dimension_set, extract(epoch FROM start)::bigint AS start, sum(reports) AS reports FROM rollup_recent AS recent
WHERE start >= date_trunc('hour', now(), 'UTC') - interval '25 hours' AND NOT EXISTS (SELECT FROM stale_rollup AS stale WHERE stale.step = 'recent' AND stale.dimension_set = recent.dimension_set
    AND stale.studio_id = recent.studio_id AND stale.game_id = recent.game_id AND stale.start = recent.start)
GROUP BY 1, 2"""
RECENT_S = 23 * 3600
SEEN = "SELECT count(DISTINCT session_id) AS sessions, sum(reports) AS reports, sum(events) AS events FROM session_seen"
SETS = {0: "country", 1: "connection", 2: "subdivision", 3: "server", 4: "network"}
"""Dimension sets, each with one of its dimensions."""
STEPS = {"1m": 60, "1h": 3600, "1d": 86400}
ROLLUPS = {"rollup_hour": 3600, "rollup_day": 86400}

type Cells = Counter[tuple[str, int]]
"""Reports by region and start, in seconds since the epoch."""


class Books:
    """Reads the ledger as it grows. Everything is compared in full since the last balance, and in total since the beginning."""

    def __init__(self, machine: Machine, ledger: Ledger) -> None:
        self._machine = machine
        self._file = ledger.path.open()
        self._since = datetime.now(UTC)
        self._promised: dict[int, Json] = {}
        self._answered: Counter[int] = Counter()
        self._totals: Counter[str] = Counter()
        self._sessions: set[str] = set()
        self._minutes: Cells = Counter()
        self._kinds: Counter[str] = Counter()

    async def balance(self) -> str:
        """Compare all; what was compared. Raises Broken, naming batches, when they do not agree within AGREE_WITHIN_S."""
        until = datetime.now(UTC)
        self._read()
        wrong = [*self._wrong_ledger(), *await self._wrong_raw()]
        deadline = time.monotonic() + AGREE_WITHIN_S
        while not wrong and any(
            later := [await part() for part in (self._wrong_answers, self._wrong_rollups, self._wrong_prometheus)]
        ):
            if time.monotonic() > deadline:
                wrong = [line for lines in later for line in lines[:NAMED_MAX]]
            await asyncio.sleep(1)
        if wrong:
            raise Broken("\n".join(["the books do not agree:", *wrong]))
        self._since = until
        self._promised.clear()
        return f"{self._totals['batches']:,} batches, {self._totals['reports']:,} reports, {len(self._sessions):,} sessions"

    # -- the ledger ----------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        self._answered.clear()
        for line in map(json.loads, self._file):
            if "told" in line:
                self._answered[line["told"]] += 1
                continue
            self._promised[line["batch"]] = line
            accepted, parts = line["items"] - line["rejected"], len(line["sessions"])
            self._totals.update(batches=1, accepted=accepted, parts=parts, reports=line["reports"], rejected=line["rejected"])
            self._sessions.update(line["sessions"])
            self._minutes.update({(line["region"], int(minute) * 60): count for minute, count in line["minutes"].items()})
            self._kinds.update(line["kinds"])

    def _wrong_ledger(self) -> Iterator[str]:
        for number in self._promised.keys() - self._answered.keys():
            yield f"{self._name(number)} was never answered 202"

    def _name(self, number: int) -> str:
        line = self._promised.get(number)
        if line is None:
            return f"batch {number} (of before the last balance)"
        sent_at = datetime.fromtimestamp(line["time"], UTC).strftime("%H:%M:%S.%f")[:-3]
        return f"batch {number} ({line['id']}, sent from {sent_at} on)"

    # -- PostgreSQL ----------------------------------------------------------------------------------------------------------

    async def _wrong_raw(self) -> list[str]:
        """Batch by batch since the last balance, and the totals."""
        stored = {row["batch"]: (row["reports"], row["hash"]) for row in await self._machine.sql(REPORTS, self._since)}
        kinds = {row["batch"]: row["kinds"] for row in await self._machine.sql(EVENTS, self._since)}
        keys = Counter({row["batch_id"]: row["accepted"] for row in await self._machine.sql(KEYS, self._since)})
        [totals] = await self._machine.sql(TOTALS)
        wrong = []
        for number, line in self._promised.items():
            count, content = stored.get(number, (0, hashlib.md5(b"", usedforsecurity=False).hexdigest()))
            accepted = line["items"] - line["rejected"]
            if count != line["reports"]:
                wrong.append(f"{self._name(number)}: reports in raw_batch {_told(count, line['reports'])}")
            elif content != line["hash"]:
                wrong.append(f"{self._name(number)}: other reports in raw_batch than were sent")
            if kinds.get(number, []) != line["kinds"]:
                wrong.append(f"{self._name(number)}: events in raw_batch {kinds.get(number, [])}, sent {line['kinds']}")
            if keys[line["id"]] != accepted:
                wrong.append(f"{self._name(number)}: accepted in batch_key {_told(keys[line['id']], accepted)}")
        wrong += [f"{self._name(number)} is in raw_batch and not in the ledger" for number in stored.keys() - self._promised.keys()]
        names = ("batches", "accepted", "parts", "rejected")
        promised = {name: self._totals[name] for name in names} | {"sessions": len(self._sessions)}
        return [*wrong[:NAMED_MAX], *_differences(f"in all ({len(wrong)} wrong batches)", dict(totals), promised)]

    async def _wrong_rollups(self) -> list[str]:
        """Ended hours and days, in each dimension set; where sessions were seen."""
        wrong = []
        for table, seconds in ROLLUPS.items():
            promised: Counter[int] = Counter()
            for (_, start), count in self._by(seconds).items():
                promised[start] += count if start + seconds + ENDED_S < time.time() else 0
            rows = await self._machine.sql(ROLLUP.format(table=table))
            for dimension_set, name in SETS.items():
                told = {row["start"]: int(row["reports"]) for row in rows if row["dimension_set"] == dimension_set}
                wrong += [
                    f"{table} by {name}, {_rfc3339(start)}: {_told(told.get(start, 0), count)}{self._whose(start, seconds)}"
                    for start, count in promised.items()
                    if count and told.get(start, 0) != count
                ]
        for row in await self._machine.sql(RECENT):
            start, told_count = row["start"], int(row["reports"])
            count = sum(count for (_, minute), count in self._minutes.items() if start <= minute < start + RECENT_S)
            if told_count != count:
                wrong.append(f"rollup_recent by {SETS[row['dimension_set']]}, {_rfc3339(start)}: {_told(told_count, count)}")
        [seen] = await self._machine.sql(SEEN)
        promised_seen = {"sessions": len(self._sessions), "reports": self._totals["reports"], "events": self._kinds.total()}
        return [*wrong, *_differences("session_seen", dict(seen), promised_seen)]

    def _by(self, seconds: int) -> Cells:
        """What was sent, by region and steps of so many seconds."""
        cells: Cells = Counter()
        for (region, start), count in self._minutes.items():
            cells[region, start // seconds * seconds] += count
        return cells

    def _whose(self, start: int, seconds: int) -> str:
        """Some batches of this time."""
        minutes = {str(minute) for minute in range(start // 60, (start + seconds) // 60)}
        found = [number for number, line in self._promised.items() if minutes & line["minutes"].keys()]
        return (
            f"; of this time: {', '.join(map(self._name, [*found[:2], *found[2:][-1:]]))} ({len(found)} batches)" if found else ""
        )

    # -- the API and Prometheus ----------------------------------------------------------------------------------------------

    async def _wrong_answers(self) -> list[str]:
        """In each dimension set /v1/quality, and series by minute, hour and day; the number of sessions."""
        starts = [start for _, start in self._minutes]
        # Up to now: what is rejected counts when it arrives, which may be after the last report.
        span = {"game": "demo", "from": _rfc3339(min(starts)), "to": _rfc3339(time.time() + 60)}
        promised = {"count": self._totals["reports"], "rejected": self._totals["rejected"], **self._kinds}
        wrong = []
        for name in SETS.values():
            answer = await self._ask("/v1/quality", **span, group_by=f"region,{name}", limit="1000")
            told: Counter[str] = Counter()
            for group in answer.get("groups", []):
                told.update({"count": group["count"], "rejected": group["rejected"], **group["events"]})
            wrong += _differences(f"/v1/quality by {name}", told, promised)
            for step, seconds in STEPS.items():
                answer = await self._ask("/v1/quality/series", **span, group_by=f"region,{name}", limit="100", step=step)
                wrong += self._wrong_series(f"/v1/quality/series by {name}, {step}", answer.get("lines", []), seconds)
        [total] = (await self._ask("/v1/quality", **span, group_by="")).get("groups") or [{"sessions": 0}]
        if abs(total["sessions"] - len(self._sessions)) > 0.0575 * len(self._sessions):  # five standard errors (docs/api.md)
            wrong.append(f"/v1/quality tells {total['sessions']} sessions of {len(self._sessions)}")
        return wrong

    def _wrong_series(self, where: str, lines: list[Json], seconds: int) -> list[str]:
        told: Cells = Counter()
        for line in lines:
            for point in line["points"]:
                told[line["group"]["region"], round(datetime.fromisoformat(point["at"]).timestamp())] += point["quality"]["count"]
        return [
            f"{where}, {region}, {_rfc3339(start)}: {_told(told[region, start], count)}{self._whose(start, seconds)}"
            for (region, start), count in self._by(seconds).items()
            if told[region, start] != count
        ]

    async def _ask(self, path: str, **parameters: str) -> Json:
        """The answer; nothing as long as it is none."""
        try:
            async with httpx.AsyncClient(base_url=self._machine.url, timeout=20) as client:
                answer = await client.get(path, params=parameters)
        except httpx.TransportError:
            return {}
        told: Json = answer.json() if answer.status_code == 200 else {}
        return told

    async def _wrong_prometheus(self) -> list[str]:
        """The last totals of the players' counters. (Not rates: a counter may seem to be reset by a take-over.)"""
        kinds, regions = dict(self._kinds), Counter[str]()
        for (region, _), count in self._minutes.items():
            regions[region] += count
        return [
            *_differences("Prometheus' player_reports_total", await self._counted("region", "player_reports_total"), regions),
            *_differences(
                "Prometheus' player_rtt_seconds", await self._counted("region", "histogram_count(player_rtt_seconds)"), regions
            ),
            *_differences("Prometheus' player_events_total", await self._counted("kind", "player_events_total"), kinds),
        ]

    async def _counted(self, label: str, expression: str) -> dict[str, int]:
        async with httpx.AsyncClient(base_url=self._machine.prometheus, timeout=20) as client:
            answer = await client.get("/api/v1/query", params={"query": f"sum by ({label}) ({expression})"})
        series = answer.json()["data"]["result"]
        return {one["metric"].get(label, ""): int(float(one["value"][1])) for one in series}


def _differences(where: str, told: Mapping[str, Any], promised: Mapping[str, int]) -> list[str]:
    return [
        f"{where}, {name}: {_told(int(told.get(name) or 0), count)}"
        for name, count in promised.items()
        if int(told.get(name) or 0) != count
    ]


def _told(told: int, promised: int) -> str:
    return f"{told}, sent {promised}{' (twice)' if promised and told == 2 * promised else ''}"


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
