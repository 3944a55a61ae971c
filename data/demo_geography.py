"""Makes demo-geography.mmdb from demo_geography.csv: `python data/demo_geography.py`. The same bytes every time."""

import csv
import sys
from pathlib import Path
from typing import Any

from mmdb_writer import MMDBWriter
from netaddr import IPSet

HERE = Path(__file__).resolve().parent
BUILT_AT = 1_767_225_600  # 2026-01-01 UTC: fixed, or every build would differ


class ReproducibleWriter(MMDBWriter):
    """The library stamps the moment of the build into the file; this one stamps a constant."""

    def _build_meta(self) -> dict[str, Any]:
        return {**super()._build_meta(), "build_epoch": BUILT_AT}


def record(row: dict[str, str]) -> dict[str, Any]:
    """What a look-up of an address in the row's ranges answers (the shape of a merged GeoLite2 record)."""
    found: dict[str, Any] = {
        "country": {"iso_code": row["country"]},
        "autonomous_system_number": int(row["asn"]),
        "autonomous_system_organization": row["organization"],
    }
    if row["subdivision"]:
        found["subdivisions"] = [{"iso_code": row["subdivision"]}]
    return found


def write(output: Path) -> None:
    """Write the database; IPv4 ranges lie at ::/96, where readers look for them."""
    writer = ReproducibleWriter(
        ip_version=6,
        ipv4_compatible=True,
        database_type="GamePulse-Demo-Geography",
        languages=["en"],
        description="Invented networks in documentation ranges (RFC 5737, RFC 3849, RFC 5398): nothing real is in it",
        int_type="u32",
    )
    with (HERE / "demo_geography.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            writer.insert_network(IPSet(filter(None, (row["ipv6"], row["ipv4"]))), record(row))
    writer.to_db_file(str(output))


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "demo-geography.mmdb")
