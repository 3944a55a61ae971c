"""Synthesises in a process of its own: aws_cdk is a Node program behind a Python face, and takes the Node that it is told."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from stack.settings import CHECKOUT, Problem, read_settings
from stack.web import node_command

NODE_OLDEST = 22  # that jsii supports
LIMIT_S = 300


def synthesise(variables: Mapping[str, str], folder: Path) -> None:
    """Write the templates of the environment that `variables` describe (deploy/app.py) into `folder`. Raises Problem."""
    environment = os.environ | variables | {"JSII_NODE": str(node_command(read_settings().cache, NODE_OLDEST))}
    command = [sys.executable, "-m", "deploy.app", str(folder)]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        raise Problem(f"The stacks cannot be synthesised:\n{done.stderr[-4000:]}")
