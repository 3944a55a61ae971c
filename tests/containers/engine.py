"""How the tests speak to the container engine, and to a stack that compose started."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from stack.programs import ensure_program
from stack.settings import CHECKOUT, read_settings

TAG = "test"
PROJECT = f"gamepulse-test-{os.getpid()}"
STEP_LIMIT_S = 900
PORTS = {
    "gamepulse": 8080,
    "prometheus": 9090,
    "alertmanager": 9093,
    "loki": 3100,
    "jaeger": 16686,
    "collector": 4318,
    "grafana": 3000,
}


def docker(*arguments: str, stdin: bytes | None = None, timeout_s: float = STEP_LIMIT_S) -> str:
    """Call the engine's client; its output. Fails with what it said."""
    command = [os.environ.get("DOCKER", "docker"), *arguments]
    environ = os.environ | {"DOCKER_BUILDKIT": "1"}
    done = subprocess.run(command, input=stdin, env=environ, capture_output=True, timeout=timeout_s, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}:\n{done.stderr.decode(errors='replace')[-3000:]}", pytrace=False)
    return done.stdout.decode()


def engine_answers() -> bool:
    """Is there an engine?"""
    client = shutil.which(os.environ.get("DOCKER", "docker"))
    return client is not None and subprocess.run([client, "info"], capture_output=True, timeout=60, check=False).returncode == 0


def registry_answers() -> bool:
    """Can an image be had that is not here, the smallest of those that are needed?"""
    [image] = re.findall(r"^ARG BUSYBOX_IMAGE=(\S+)", (CHECKOUT / "docker/Dockerfile").read_text(), re.MULTILINE)
    command = [os.environ.get("DOCKER", "docker"), "pull", "--quiet", image]
    return subprocess.run(command, capture_output=True, timeout=300, check=False).returncode == 0


def kill(container: Any) -> None:
    """As an out-of-memory kill or a crash would: `docker kill` would count as wanted, and nothing would start it again."""
    script = f"import os; os.kill({container['State']['Pid']}, 9)"
    image = f"gamepulse/demo:{container['Config']['Image'].partition(':')[2]}"
    docker("run", "--rm", "--pid=host", "--network=none", "--user=0:0", "--entrypoint=/usr/bin/python", image, "-c", script)


@cache
def compose_program() -> str:
    """Compose, built from its module as the other programs: Debian has none that reads compose.yaml."""
    return str(ensure_program(read_settings(), "compose") / "docker-compose")


@dataclass
class ComposeStack:
    """A stack of compose.yaml under a project name of its own; looks like `Stack` to the tests of the signals."""

    environ: dict[str, str]
    project: str = PROJECT
    home: Path = Path("/var/lib/docker")  # on whose file system the volumes are
    files: tuple[str, ...] = ("compose.yaml",)
    _keys: dict[str, str] = field(default_factory=dict)

    def compose(self, *arguments: str, timeout_s: float = STEP_LIMIT_S) -> str:
        files = [word for file in self.files for word in ("--file", file)]
        command = [compose_program(), "--project-name", self.project, *files, *arguments]
        done = subprocess.run(
            command, cwd=CHECKOUT, env=os.environ | self.environ, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode:
            pytest.fail(f"docker compose {' '.join(arguments)}:\n{done.stderr[-3000:]}\n{self.last_lines()}", pytrace=False)
        return done.stdout

    def last_lines(self) -> str:
        """Of every container that is not well."""
        told = []
        for one in self.containers(all_=True).values():
            state = one["State"]
            if state.get("Health", {}).get("Status") == "unhealthy" or state["ExitCode"] or state["Restarting"]:
                done = subprocess.run(
                    [os.environ.get("DOCKER", "docker"), "logs", "--tail", "15", one["Id"]],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                told.append(f"-- {one['Name']}: {state['Status']} {state['ExitCode']}\n{done.stdout}{done.stderr}")
        return "\n".join(told)

    def containers(self, all_: bool = False) -> dict[str, Any]:
        """What the engine says of each, by service."""
        filters = ["--filter", f"label=com.docker.compose.project={self.project}"]
        ids = docker("ps", "--quiet", *(["--all"] if all_ else []), *filters).split()
        inspected = json.loads(docker("inspect", *ids)) if ids else []
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in inspected}

    def container(self, service: str) -> Any:
        return self.containers()[service]

    def url(self, service: str) -> str:
        """By the address in the network of the back: this machine is the engine's, so it reaches what is not published."""
        networks = self.container(service)["NetworkSettings"]["Networks"]
        return f"http://{networks[f'{self.project}_back']['IPAddress']}:{PORTS[service]}"

    @property
    def file(self) -> dict[str, Any]:
        """What the tests need of a stack.json."""
        if not self._keys:
            self._keys |= json.loads(self.in_volume("keys.json"))
        return {"demo": {"game": "demo"} | {name: self._keys[name] for name in ("ingest_key", "server_key")}}

    def in_volume(self, name: str) -> str:
        """A file of the volume of keys, read as root as the step that made it."""
        script = "import pathlib, sys; print(pathlib.Path('/run/keys', sys.argv[1]).read_text())"
        return docker(
            "run", "--rm", "--user=0:0", "--entrypoint=/usr/bin/python", f"--volume={self.project}_keys:/run/keys:ro",
            f"gamepulse/demo:{self.environ['GAMEPULSE_TAG']}", "-c", script, name,
        )  # fmt: skip

    def up(self, *services: str) -> None:
        self.compose("up", "--detach", "--no-build", "--pull", "never", "--wait", "--wait-timeout", "300", *services)

    def down(self, *, volumes: bool = False) -> None:
        self.compose("down", "--timeout", "30", "--remove-orphans", *(["--volumes"] if volumes else []))
