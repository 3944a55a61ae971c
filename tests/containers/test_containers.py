"""Containers as compose.yaml describes them: rights, limits, networks; killed and started again; gone and back with their data."""

import hashlib
import json
import os
import re
import subprocess
import tarfile
import time
import zlib
from functools import partial
from pathlib import Path

import httpx
import pytest
import yaml

from gamepulse import __version__
from stack.prepare import alertmanager_configuration
from stack.settings import CHECKOUT
from tests.batches import batch, report
from tests.conftest import wait_for
from tests.containers.conftest import IS_UPSTREAM, SERVICES, STEPS
from tests.containers.engine import ComposeStack, docker, kill
from tests.containers.images import build_ours
from tests.stack.conftest import Stores

REGION = "containers"
LIST_AND_COMMANDS = """
import json, pathlib
folders = [pathlib.Path(root, name) for root in ("/", "/usr", "/usr/local", "/opt/gamepulse") for name in ("bin", "sbin")]
commands = [path.name for folder in folders if folder.is_dir() for path in folder.iterdir()]
print(json.dumps(json.loads(pathlib.Path("/usr/share/gamepulse/sbom.cdx.json").read_text()) | {"commands": commands}))
"""


def send(stack: ComposeStack, seq: int = 0) -> int:
    key = {"authorization": f"Bearer {stack.file['demo']['ingest_key']}"}
    try:
        return httpx.post(f"{stack.url('gamepulse')}/v1/reports", json=batch([report(seq, region=REGION)]), headers=key).status_code
    except (httpx.TransportError, KeyError):
        return 0


def count(stack: ComposeStack) -> int:
    """How many reports of the region are told."""
    params: dict[str, str | int] = {"game": "demo", "group_by": "region", "limit": 1000}
    answer = httpx.get(f"{stack.url('gamepulse')}/v1/quality", params=params).raise_for_status()
    return sum(group["count"] for group in answer.json()["groups"] if group["region"] == REGION)


@pytest.mark.parametrize("step", STEPS)
def test_step_has_ended_well(stack: ComposeStack, step: str) -> None:
    state = stack.containers(all_=True)[step]["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 0)


@pytest.mark.parametrize("service", SERVICES)
def test_program_is_well_and_has_no_more_rights_than_it_needs(stack: ComposeStack, service: str) -> None:
    one = stack.container(service)
    host = one["HostConfig"]
    assert one["State"]["Health"]["Status"] == "healthy"
    assert one["RestartCount"] == 0
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert one["Config"]["User"] not in ("", "root", "0", "0:0")
    assert 0 < host["NanoCpus"] <= 2e9
    assert 0 < host["Memory"] <= 2**31
    assert host["PidsLimit"] == 512


def test_only_the_live_page_is_published_and_only_here(stack: ComposeStack) -> None:
    published = {
        (service, bound["HostIp"])
        for service, one in stack.containers().items()
        for ports in one["NetworkSettings"]["Ports"].values()
        for bound in ports or []
    }
    assert {("gamepulse", "127.0.0.1")} <= published <= {("gamepulse", "127.0.0.1"), ("grafana", "127.0.0.1")}
    page = httpx.get(f"http://127.0.0.1:{stack.environ['LIVE_PAGE_PORT']}/")
    assert page.status_code == 200
    assert "GamePulse" in page.text


def test_the_back_has_no_way_out(stack: ComposeStack) -> None:
    assert docker("network", "inspect", f"{stack.project}_back", "--format", "{{.Internal}}").strip() == "true"
    for service in SERVICES:
        networks = set(stack.container(service)["NetworkSettings"]["Networks"])
        assert (f"{stack.project}_front" in networks) == (service == "gamepulse")


def test_each_user_reads_its_own_keys_only(stack: ComposeStack) -> None:
    script = (
        "import pathlib\nfor path in sorted(pathlib.Path('/run/keys').rglob('*')):\n"
        " try:\n  path.is_file() and (path.read_text(), print(path.relative_to('/run/keys')))\n except PermissionError: pass"
    )
    read = docker("exec", stack.container("gamepulse")["Id"], "/usr/bin/python", "-c", script).split()
    assert read == ["gamepulse/database-url", "gamepulse/player-hash-key"]


def test_documentation_is_served_without_what_the_image_leaves_out(stack: ComposeStack) -> None:
    assert httpx.get(f"{stack.url('gamepulse')}/docs/schema/openapi.json").json()["info"]["title"]
    assert httpx.get(f"{stack.url('gamepulse')}/docs/").status_code == 200


@pytest.mark.timeout(240)
@pytest.mark.parametrize("service", ["gamepulse", "collector", "valkey", "postgres"])
def test_killed_container_comes_back_by_itself_and_nothing_is_missing(stack: ComposeStack, stores: Stores, service: str) -> None:
    before = count(stack)
    one = stack.container(service)
    wait_for("a report is taken", lambda: send(stack) == 202)
    kill(one)
    taken, deadline = 1, time.monotonic() + 60
    while taken < 5:
        assert time.monotonic() < deadline, f"{service} did not come back"
        taken += send(stack, taken) == 202
        time.sleep(0.5)
    wait_for("it is another process", lambda: stack.container(service)["State"]["Pid"] not in (0, one["State"]["Pid"]), 30)
    wait_for("all are well", lambda: _health(stack, service) == "healthy", 90)
    wait_for("what was taken is told", lambda: count(stack) == before + 5, 60)
    total = f'sum(player_reports_total{{game="demo",region="{REGION}"}})'
    wait_for("Prometheus' counter", lambda: stores.number(total) == before + 5, 90)


def _health(stack: ComposeStack, service: str) -> str:
    found: str = stack.container(service)["State"]["Health"]["Status"]
    return found


@pytest.mark.timeout(600)
def test_data_outlives_down_and_up(stack: ComposeStack, stores: Stores) -> None:
    before = count(stack)
    assert send(stack) == 202
    told = before + 1
    wait_for("the report is told", lambda: count(stack) == told)
    series = wait_for("a series", lambda: stores.number(f'sum(player_reports_total{{region="{REGION}"}})') == told, 90)
    lines = wait_for("lines", lambda: stores.loki('{service_name="gamepulse",level="info"} |= `request`'), 60)
    began = time.time()
    assert series and lines
    stack.down()
    assert stack.containers(all_=True) == {}
    stack.up(*SERVICES)
    assert count(stack) == told
    kept = f'last_over_time(player_reports_total{{region="{REGION}"}}[1h] @ {began})'
    wait_for("the series of before", lambda: stores.number(f"sum({kept})") == told, 60)
    wait_for("the lines of before", lambda: stores.loki('{service_name="gamepulse",level="info"} |= `request`'), 60)
    wait_for("the traces of before", lambda: any(span["startTime"] / 1e6 < began for span in stores.traces("POST /v1/reports")), 60)
    assert send(stack, 1) == 202
    wait_for("what comes after is counted on top", lambda: count(stack) == told + 1)


def test_image_is_small_and_says_what_is_in_it(stack: ComposeStack) -> None:
    image = f"gamepulse/gamepulse:{stack.environ['GAMEPULSE_TAG']}"
    client = os.environ.get("DOCKER", "docker")
    with subprocess.Popen([client, "save", image], stdout=subprocess.PIPE) as saved:
        assert saved.stdout
        squeezed = zlib.compressobj(6)
        size = sum(len(squeezed.compress(part)) for part in iter(partial(saved.stdout.read, 1 << 20), b"")) + len(squeezed.flush())
    print(f"{image}: {size / 1e6:.1f} MB compressed")
    assert size <= 80e6
    listed = json.loads(docker("run", "--rm", "--entrypoint=/usr/bin/python", image, "-c", LIST_AND_COMMANDS))
    assert {re.sub(r"[\d.]+$", "", name) for name in listed.pop("commands")} == {"python"}, "neither shell nor package manager"
    assert listed["specVersion"] == "1.6"
    assert listed["metadata"]["component"]["name"] == "gamepulse"
    names = {re.sub(r"[-_.]+", "-", one["name"]).lower() for one in listed["components"]}
    locked = set(re.findall(r"^([\w.-]+)==", (CHECKOUT / "requirements.lock").read_text(), re.MULTILINE))
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in locked} - names == {"faker"}  # left out: see stack/image.py
    assert {"libc6", "python", "uplot", "swagger-ui-dist"} <= names


def layers(image: str, folder: Path) -> list[set[tuple[object, ...]]]:
    """Of each layer its files, with all that is said of them; not their order, which this machine's engine may change."""

    def described(layer: tarfile.TarFile, one: tarfile.TarInfo) -> tuple[object, ...]:
        content = layer.extractfile(one) if one.isreg() else None
        digest = hashlib.sha256(content.read()).hexdigest() if content else ""
        return one.name, one.type, one.mode, one.uid, one.gid, one.mtime, one.linkname, digest

    docker("save", f"--output={folder / 'image.tar'}", image)
    found = []
    with tarfile.open(folder / "image.tar") as saved:
        manifest = saved.extractfile("manifest.json")
        assert manifest
        for name in json.load(manifest)[0]["Layers"]:
            with tarfile.open(fileobj=saved.extractfile(name)) as layer:
                found.append({described(layer, one) for one in layer})
    return found


def test_image_made_anew_has_the_same_layers(stack: ComposeStack, tmp_path: Path) -> None:
    image = f"gamepulse/demo:{stack.environ['GAMEPULSE_TAG']}"  # the service's layers, and its own
    again = f"{image}-again"
    build_ours("demo", again, "--no-cache", is_upstream=IS_UPSTREAM)
    try:
        first, second = (layers(name, tmp_path) for name in (image, again))
    finally:
        docker("image", "rm", again)
    assert [one ^ other for one, other in zip(first, second, strict=True)] == [set()] * len(first)


def test_image_says_what_it_is(stack: ComposeStack) -> None:
    [said] = json.loads(docker("image", "inspect", f"gamepulse/gamepulse:{stack.environ['GAMEPULSE_TAG']}"))
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in said["Config"]["Labels"].items()}
    assert (labels["title"], labels["version"], labels["licenses"]) == ("GamePulse", __version__, "Apache-2.0")
    assert labels["description"]
    assert f"GAMEPULSE_REVISION={labels['revision']}" in said["Config"]["Env"]


@pytest.mark.timeout(240)
def test_load_of_the_profile_meets_its_thresholds(stack: ComposeStack, stores: Stores) -> None:
    said = stack.compose("--profile", "load", "run", "--rm", "--no-deps", "--pull", "never", "load")  # a threshold not met fails
    assert "smoke" in said
    query = 'k6_vus_max{environment="local",instance=~"load-smoke-.+"}'  # the dashboard's runs
    wait_for(query, lambda: stores.prometheus(query), 30)


@pytest.mark.timeout(240)
def test_demo_replays_measurements_of_players_everywhere(stack: ComposeStack) -> None:
    """Their countries are known by what the replay says of their addresses, and by the demo's geography."""
    params: dict[str, str | int] = {"game": "demo", "group_by": "region,country", "limit": 1000}

    def countries() -> set[str]:
        groups = httpx.get(f"{stack.url('gamepulse')}/v1/quality", params=params).json()["groups"]
        return {one["country"] for one in groups if one["region"] == "ap-northeast-2"} - {"ZZ"}

    assert not countries()
    try:
        stack.up("demo")
        wait_for("players of several countries", lambda: len(countries()) > 2, 60)
    finally:
        stack.compose("rm", "--stop", "--force", "demo")


@pytest.mark.parametrize("receiver", ["webhook", "sns"])
def test_alertmanager_starts_with_the_receiver_that_is_asked_for(stack: ComposeStack, receiver: str) -> None:
    values = {
        "ALERT_TARGET": "http://x.example/?a=1&b=\\2|3",
        "REPOSITORY_URL": "https://git.example/a",
        "GRAFANA_URL": "https://g.example",
    }
    asked = [f"--env={name}={value}" for name, value in (values | {"ALERT_RECEIVER": receiver}).items()]
    image = f"gamepulse/alertmanager:{stack.environ['GAMEPULSE_TAG']}"
    written = docker(
        "run", "--rm", "--entrypoint=/bin/sh", *asked, image, "-c", "start-alertmanager --version >&2; cat /tmp/alertmanager.yml"
    )
    assert yaml.safe_load(written) == yaml.safe_load(alertmanager_configuration(receiver, **values))
