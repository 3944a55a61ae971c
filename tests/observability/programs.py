"""`python -m tests.observability.programs http://127.0.0.1:9090`: writes programs.json, the metrics of the stack's own programs."""

import json
import sys
from pathlib import Path

import httpx

FILE = Path(__file__).with_name("programs.json")
NOT_OURS = "go_|net_|promhttp_|scrape_|process_runtime"


def main(prometheus: str) -> None:
    query = f'count by (job, __name__) ({{job!="gamepulse/gamepulse",job!="",__name__!~"({NOT_OURS}).*"}})'
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}).raise_for_status().json()
    names: dict[str, set[str]] = {}
    for series in answer["data"]["result"]:
        names.setdefault(series["metric"]["job"], set()).add(series["metric"]["__name__"])
    before = json.loads(FILE.read_text()) if FILE.exists() else {}
    for job, known in before.items():  # some are there only after something has happened
        names.setdefault(job, set()).update(known)
    FILE.write_text(json.dumps({job: sorted(found) for job, found in sorted(names.items())}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
