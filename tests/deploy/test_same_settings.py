"""One configuration, three ways: what AWS's tasks are told is what compose and `make up` tell, where it must be (tests/unit/test_compose.py)."""

import json
import re
import shlex
from functools import cache
from typing import Any

import pytest

from gamepulse.settings import load
from stack.settings import CHECKOUT, PORTS
from tests.deploy.conftest import Json, Templates
from tests.unit.test_compose import DOCKERFILES, LISTENERS, SERVICES, TARGETS, command

# Compose's service for each container of a task that always runs.
SAME = {
    "gamepulse-app": "gamepulse", "otel-collector": "collector", "prometheus": "prometheus", "alertmanager": "alertmanager",
    "loki": "loki", "jaeger": "jaeger", "grafana": "grafana",
}  # fmt: skip
IMPORTED = {
    "databasehost": "database.example",  # by a parameter
    "CacheGroup": "cache.example",
    "TopicsAlerts": "arn:aws:sns:ap-northeast-2:111122223333:alerts",
    "BucketsLoki": "gamepulse-loki-logs-111122223333",
}


def plain(value: Any) -> str:
    """A value of the template as a task would see it."""
    if isinstance(value, str):
        return value
    if "Fn::Join" in value:
        separator, parts = value["Fn::Join"]
        return str(separator).join(map(plain, parts))
    named = value.get("Fn::ImportValue") or value.get("Ref")
    if named:
        return next((known for name, known in IMPORTED.items() if name in named), named)
    return json.dumps(value)


def containers(templates: Templates) -> dict[tuple[str, str], Json]:
    """Of all task definitions, by family and name."""
    return {
        (one["Properties"]["Family"], container["Name"]): container
        for part in ("jobs", "services")
        for one in templates[part]["Resources"].values()
        if one["Type"] == "AWS::ECS::TaskDefinition"
        for container in one["Properties"]["ContainerDefinitions"]
    }


def environment(container: Json) -> dict[str, str]:
    """What it is told, secrets by name only."""
    told = {one["Name"]: plain(one["Value"]) for one in container.get("Environment", [])}
    return told | {one["Name"]: "secret" for one in container.get("Secrets", [])}


@pytest.fixture
def app(staging: Templates) -> Json:
    return containers(staging)["gamepulse-app", "gamepulse-app"]


@pytest.fixture(params=SAME)
def pair(request: pytest.FixtureRequest, staging: Templates) -> tuple[Json, str]:
    """A container, and compose's service."""
    found = [one for (_, name), one in containers(staging).items() if name == request.param]
    assert found
    return found[0], SAME[request.param]


def test_the_service_takes_the_settings_that_it_is_told(app: Json) -> None:
    told = environment(app) | {"GAMEPULSE_PLAYER_HASH_KEY": "0" * 64, "AWS_REGION": "ap-northeast-2"}  # which Fargate tells
    settings = load(told)
    assert settings.environment == "staging"
    assert settings.database_url.startswith("postgresql://gamepulse_service@database.example:5432/gamepulse?sslmode=verify-full")
    assert settings.edge == "cloudfront"
    assert settings.trusted_proxies == "10.0.1.0/24,10.0.2.0/24,10.0.3.0/24"
    assert settings.otel_exporter_otlp_endpoint == "http://localhost:4317"
    # What is not told is the default, as everywhere: limits and retention.
    kept = {
        "pending_reports_max",
        "raw_retention_days",
        "minute_retention_days",
        "hour_retention_months",
        "next_report_s",
        "workers",
    }
    assert not {f"GAMEPULSE_{name.upper()}" for name in kept} & set(told)
    assert not {f"GAMEPULSE_{name.upper()}" for name in kept} & set(SERVICES["gamepulse"]["environment"])


def test_health_is_asked_as_in_the_image(pair: tuple[Json, str]) -> None:
    container, service = pair
    [said] = re.findall(r"^HEALTHCHECK .*? CMD (\[.*\])$", TARGETS[service], re.MULTILINE)
    assert container["HealthCheck"]["Command"] == ["CMD", *json.loads(said)]


def test_flags_are_the_same(pair: tuple[Json, str]) -> None:
    container, service = pair
    if service in {"collector", "grafana"}:
        assert ("Command" in container) == (service == "collector")  # which files it reads: the test below
        return
    # Where its files are, and snapshots by the admin's API, are AWS's alone.
    own = {"config.file", "web.enable-admin-api"}
    ours = {word.lstrip("-") for word in container.get("Command") or command(service)}
    theirs = {word.lstrip("-") for word in command(service)}
    assert {one.partition("=")[0] for one in ours ^ theirs} <= own


@cache
def expanded(program: str) -> frozenset[str]:
    """The variables that a program's configuration names."""
    files = {"collector": "observability/collector/*.yaml", "jaeger": "observability/jaeger/jaeger.yaml", "loki": "observability/loki/loki.yaml",
             "grafana": "observability/grafana/provisioning/datasources/*.yaml"}  # fmt: skip
    texts = [path.read_text() for path in CHECKOUT.glob(files[program])]
    return frozenset(name for text in texts for name in re.findall(r"\$(?:\{(?:env:)?)?([A-Z][A-Z0-9_]+)", text))


@pytest.mark.parametrize("family", ["gamepulse-app", "infrastructure"])
def test_collector_knows_what_it_is_told(staging: Templates, family: str) -> None:
    container = containers(staging)[family, "otel-collector"]
    told = environment(container)
    assert set(told) <= expanded("collector")
    files = [
        CHECKOUT / "observability" / "collector" / word.rpartition("/")[2]
        for word in container["Command"]
        if word.endswith(".yaml")
    ]
    assert files[0].name == "otel-collector-config.yaml"
    assert [path.name for path in files[1:]] == (["infrastructure.yaml", "certificates.yaml"] if family == "infrastructure" else [])
    required = {name for path in files for name in re.findall(r"\$\{env:(\w+)\}", path.read_text())}
    assert required <= set(told)
    assert told["COLLECTOR_OTLP_GRPC"] == "127.0.0.1:4317"
    assert not {"POSTGRES_PLAIN", "VALKEY_PLAIN"} & set(told)
    limit = int(told.get("COLLECTOR_MEMORY_MIB", "400"))
    assert limit < container.get("Memory", 512) * 0.8


@pytest.mark.parametrize("name", ["jaeger", "loki"])
def test_store_knows_what_it_is_told(staging: Templates, name: str) -> None:
    told = set(environment(containers(staging)[name, name])) - {"OTEL_TRACES_SAMPLER"}
    assert told <= expanded(name)


def test_grafana_has_all_that_its_data_sources_name(staging: Templates) -> None:
    told = environment(containers(staging)["grafana", "grafana"])
    given_by_fargate = {"AWS_REGION"}
    assert expanded("grafana") - given_by_fargate <= set(told)
    same = {name for name in SERVICES["grafana"]["environment"] if name.startswith(("GF_ANALYTICS", "GF_PLUGINS"))}
    assert len(same) == 5
    assert {name: told[name] for name in same} == {name: SERVICES["grafana"]["environment"][name] for name in same}
    assert told["POSTGRES_TLS"] == "verify-full"


def test_alertmanager_has_all_that_its_receiver_names(staging: Templates) -> None:
    told = environment(containers(staging)["alertmanager", "alertmanager"])
    receiver = (CHECKOUT / "observability/alertmanager/receivers" / f"{told['ALERT_RECEIVER']}.yml").read_text()
    assert set(re.findall(r"\$\{(\w+)\}", receiver)) | {"ALERT_RECEIVER"} == set(told)


def test_labels_are_the_same(staging: Templates, production: Templates) -> None:
    for templates, name in ((staging, "staging"), (production, "production")):
        labelled = {
            key: environment(one)["GAMEPULSE_ENVIRONMENT"]
            for key, one in containers(templates).items()
            if "GAMEPULSE_ENVIRONMENT" in environment(one)
        }
        assert labelled == dict.fromkeys(
            (
                ("gamepulse-app", "gamepulse-app"),
                ("gamepulse-app", "otel-collector"),
                ("infrastructure", "otel-collector"),
                ("prometheus", "prometheus"),
            ),
            name,
        )


def test_every_address_leads_to_the_port_that_the_program_has(staging: Templates) -> None:
    texts = [shlex.quote(value) for one in containers(staging).values() for value in environment(one).values()]
    found = {pair for text in texts for pair in re.findall(r"\b([a-z-]+)\.gamepulse\.internal:(\d+)", text)}
    assert len(found) == 5
    for name, port in found:
        assert f"{name}:{port}" in LISTENERS
        listener = LISTENERS[f"{name}:{port}"]
        assert PORTS[listener] == int(port) or listener == "jaeger-otlp"


def test_limits_are_compose_s(app: Json, staging: Templates) -> None:
    assert f"{app['Memory']}m" == SERVICES["gamepulse"]["mem_limit"]
    collector = containers(staging)["gamepulse-app", "otel-collector"]
    assert f"{collector['Memory']}m" == SERVICES["collector"]["mem_limit"]


def test_every_volume_belongs_to_the_image_s_user(staging: Templates) -> None:
    """On Fargate an empty volume is root's, unless the image says that it has one there: so every path is one in the Dockerfiles."""
    for (family, name), container in containers(staging).items():
        image = re.search(r"/gamepulse/(\w+):", plain(container["Image"]))
        assert image
        text = "".join(DOCKERFILES.values())
        target = re.search(rf"^FROM \S+ AS {image[1]}\n(.*?)(?=^FROM |\Z)", text, re.MULTILINE | re.DOTALL)
        assert target
        said = {path for line in re.findall(r"^VOLUME (\[.*?\])", target[1], re.MULTILINE) for path in json.loads(line)}
        if image[1] in {"gamepulse", "operations"}:  # both begin with `root`
            assert 'VOLUME ["/tmp"]\n' in TARGETS["root"]
            said |= {"/tmp"}  # noqa: S108 (a path in an image)
        said |= {"prometheus": {"/prometheus"}, "alertmanager": {"/alertmanager"}}.get(image[1], set())  # the makers' own
        mounted = {one["ContainerPath"] for one in container.get("MountPoints", [])}
        on_efs = {"/prometheus-data", "/jaeger-data", "/grafana-config"}  # an access point says whose
        assert mounted - on_efs <= said, (family, name)
