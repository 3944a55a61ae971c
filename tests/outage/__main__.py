"""`python -m tests.outage --minutes 10`: the campaign of outages, each so long. CONTRIBUTING.md says how to read it."""

import argparse
import shutil
import tempfile
from pathlib import Path

from tests.outage.campaign import campaign


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="gamepulse-outage-"))
    home.chmod(0o755)  # PostgreSQL is another user when we are root
    print(f"outages of {arguments.minutes:g} minutes; logs: {home}/logs", flush=True)
    campaign(home, arguments.minutes)
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
