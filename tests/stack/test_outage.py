"""The campaign of outages, in its short form."""

from pathlib import Path

import pytest

from tests.outage.campaign import campaign


@pytest.mark.timeout(1200)
def test_stores_away_and_the_collector_killed(own_folder: Path) -> None:
    campaign(own_folder / "outage", minutes=0.2)
