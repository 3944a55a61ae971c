"""Random faults under load, with another seed each time: nothing that was answered is lost or counts twice (campaign.py)."""

import signal
import subprocess
import sys

import pytest

from stack.settings import CHECKOUT

FAULTS = 50
LIMIT_S = 420


@pytest.mark.timeout(LIMIT_S + 60)
def test_the_books_agree_after_random_faults() -> None:
    command = [sys.executable, "-m", "tests.faults.campaign", "--faults", str(FAULTS)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as campaign:
        try:
            told, _ = campaign.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            campaign.send_signal(signal.SIGTERM)  # not SIGKILL: its programs would stay
            told, _ = campaign.communicate()
    assert campaign.returncode == 0, told
    assert f"after {FAULTS} faults the books agree" in told, told
