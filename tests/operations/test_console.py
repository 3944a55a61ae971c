"""`operations console` stays until it is told to end."""

import signal
import subprocess
import sys

from stack.settings import CHECKOUT


def test_the_console_waits_until_sigterm() -> None:
    command = [sys.executable, "-m", "operations", "console"]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert "Waiting" in process.stdout.readline()
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
