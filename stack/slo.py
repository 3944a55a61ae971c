"""Makes Prometheus' rules of the service level objectives, by Sloth: `python -m stack.slo`."""

import subprocess
import sys
from pathlib import Path

from stack.components import OBSERVABILITY
from stack.programs import ensure_program
from stack.settings import Problem, read_settings

OBJECTIVES = OBSERVABILITY / "slo" / "gamepulse.yml"
RULES = OBSERVABILITY / "prometheus" / "rules" / "slo.yml"


def generate(rules: Path) -> None:
    """Write the rules. Raises Problem with what Sloth said when it cannot."""
    sloth = str(ensure_program(read_settings(), "sloth") / "sloth")
    command = [sloth, "generate", "--no-color", "--default-slo-period=28d", f"--input={OBJECTIVES}", f"--out={rules}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise Problem(f"Sloth refused {OBJECTIVES}:\n{done.stderr.strip()}")


if __name__ == "__main__":
    try:
        generate(RULES)
    except Problem as problem:
        sys.exit(str(problem))
