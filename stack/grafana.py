"""Finds a Grafana: a binary, or its image where a container engine answers. It cannot be built from its module."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stack.keys import Keys
from stack.settings import CHECKOUT, LISTEN, Settings

IMAGE = "grafana/grafana:13.2.2"
PULL_LIMIT_S = 300
PROVISIONING = CHECKOUT / "observability" / "grafana" / "provisioning"
MISSING = f"Grafana is left out: no `grafana` on the PATH or at GRAFANA_HOME, and no container engine has {IMAGE}."


@dataclass(frozen=True)
class Grafana:
    """How to run the Grafana that was found."""

    command: list[str]
    environment: Mapping[str, str]


def find_grafana(settings: Settings, keys: Keys) -> Grafana | None:
    """Return how to run Grafana here; None when there is none. Its image is pulled when that is the way."""
    environment = grafana_environment(settings, keys)
    return _binary(settings, environment) or _image(settings, environment)


def _binary(settings: Settings, environment: dict[str, str]) -> Grafana | None:
    home = settings.grafana_home
    found = shutil.which("grafana", path=str(home / "bin")) if home else shutil.which("grafana")
    if found is None:
        return None
    beside = Path(found).resolve().parent.parent
    home = home or (beside if (beside / "conf" / "defaults.ini").exists() else Path("/usr/share/grafana"))
    data = settings.home / "grafana"
    return Grafana([found, "server", f"--homepath={home}"], environment | {"GF_PATHS_DATA": str(data)})


def _image(settings: Settings, environment: dict[str, str]) -> Grafana | None:
    engine = shutil.which("docker")
    if engine is None or not _succeeds([engine, "info"], 10):
        return None
    if not _succeeds([engine, "image", "inspect", IMAGE], 10) and not _pull(engine, settings):
        return None
    name = f"gamepulse-grafana-{settings.port('grafana')}"
    _succeeds([engine, "rm", "--force", name], 30)  # what a crash left
    # The host's network: the data sources listen on 127.0.0.1 only.
    command = [engine, "run", "--rm", "--name", name, "--network=host", f"--user={os.getuid()}:{os.getgid()}"]
    command += [f"--volume={settings.home / 'grafana'}:/var/lib/grafana"]
    command += [f"--volume={PROVISIONING}:{PROVISIONING}:ro"]
    command += [f"--env={key}={value}" for key, value in environment.items()]
    return Grafana([*command, IMAGE], {})


def _pull(engine: str, settings: Settings) -> bool:
    """Once on a machine: else each `make up` would wait for what cannot be had."""
    failed = settings.cache / "grafana-not-pulled"
    if failed.exists() and failed.read_text() == IMAGE:
        return False
    print(f"Pulling {IMAGE} …", flush=True)
    if _succeeds([engine, "pull", "--quiet", IMAGE], PULL_LIMIT_S):
        return True
    print(f"It cannot be pulled, and is not tried again. Later: docker pull {IMAGE}", flush=True)
    failed.parent.mkdir(parents=True, exist_ok=True)
    failed.write_text(IMAGE)
    return False


def grafana_environment(settings: Settings, keys: Keys) -> dict[str, str]:
    return {
        "GF_SERVER_HTTP_ADDR": LISTEN,
        "GF_SERVER_HTTP_PORT": str(settings.port("grafana")),
        "GF_PATHS_PROVISIONING": str(PROVISIONING),
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
        "GF_AUTH_ANONYMOUS_ORG_ROLE": "Editor",  # Explore needs it; only this machine gets here
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
        # Its data sources lie in the image. Where nothing can be written there, updating them at the start would end them.
        "GF_PLUGINS_PREINSTALL_DISABLED": "true",
        "GF_PLUGINS_PREINSTALL_AUTO_UPDATE": "false",
        "PROMETHEUS_URL": settings.url("prometheus"),
        "LOKI_URL": settings.url("loki"),
        "JAEGER_URL": settings.url("jaeger"),
        "ALERTMANAGER_URL": settings.url("alertmanager"),
        "POSTGRES_ADDRESS": settings.address("postgres"),
        "POSTGRES_DATABASE": "gamepulse",
        "POSTGRES_USER": "gamepulse_grafana",
        "POSTGRES_PASSWORD": keys.grafana_password,
        "POSTGRES_TLS": "disable",
        "POSTGRES_CA": "",
    }


def _succeeds(command: list[str], limit_s: float) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=limit_s, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
