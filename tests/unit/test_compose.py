"""One configuration, natively and in containers: what must be the same is, and compose.yaml and the Dockerfiles keep the house's rules."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gamepulse import __version__
from stack.components import OBSERVABILITY, Component, service_environment, stack_components
from stack.grafana import IMAGE as GRAFANA_IMAGE
from stack.grafana import grafana_environment
from stack.keys import load_keys
from stack.postgres import service_database_url
from stack.prepare import SCRAPED
from stack.settings import CHECKOUT, PORTS, Settings
from stack.volume import USERS, files
from tests.load.__main__ import exporting

type Json = dict[str, Any]

COMPOSE: Json = yaml.safe_load(re.sub(r"(?<!\$)\$\{\w+(?::-(.*?))?(?::\+.*?)?\}", r"\1", (CHECKOUT / "compose.yaml").read_text()))
SERVICES: dict[str, Json] = COMPOSE["services"]
STEPS = {name for name, one in SERVICES.items() if one["restart"].startswith("on-failure")}
PROGRAMS = set(SERVICES) - STEPS - {"load"}
DOCKERFILES = {name: (CHECKOUT / name).read_text() for name in ("Dockerfile", "docker/Dockerfile")}
TARGETS: dict[str, str] = {
    name: body
    for text in DOCKERFILES.values()
    for name, body in re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", text, re.MULTILINE | re.DOTALL)
}
# Where a program listens in a container of its own, and under which name natively, where it has moved aside for others.
LISTENERS = {
    "gamepulse:8080": "gamepulse", "postgres:5432": "postgres", "valkey:6379": "valkey", "collector:4317": "collector-grpc",
    "collector:8888": "collector-metrics", "prometheus:9090": "prometheus", "alertmanager:9093": "alertmanager", "loki:3100": "loki",
    "jaeger:16686": "jaeger", "jaeger:4317": "jaeger-otlp", "jaeger:8888": "jaeger-metrics", "grafana:3000": "grafana",
}  # fmt: skip
MOVED = {"jaeger-otlp", "jaeger-metrics"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, cache=tmp_path / "cache")


@pytest.fixture
def native(settings: Settings) -> dict[str, Component]:
    return {one.name: one for one in stack_components(settings, load_keys(settings.home))}


def test_grafana_is_of_one_version() -> None:
    assert f"ARG GRAFANA_IMAGE={GRAFANA_IMAGE}\n" in DOCKERFILES["docker/Dockerfile"]


def command(service: str) -> list[str]:
    """Of compose, or else of the image."""
    if "command" in SERVICES[service]:
        return [str(word) for word in SERVICES[service]["command"]]
    [said] = re.findall(r"^CMD (\[.*?\])$", TARGETS[service], re.MULTILINE | re.DOTALL)
    return [str(word) for word in json.loads(said.replace("\\\n", ""))]


def copied(target: str) -> dict[str, str]:
    """Files and folders of the checkout in an image, with where they are there."""
    found: dict[str, str] = {}
    for line in re.findall(r"^COPY (?!--from)(?:--chmod=\d+ )?(.+)$", TARGETS[target], re.MULTILINE):
        *sources, place = line.split()
        found |= dict.fromkeys(sources, place)
    return found


# -- the same as natively ----------------------------------------------------------------------------------------------------------


def test_images_have_the_files_that_make_up_uses(native: dict[str, Component]) -> None:
    for name in ("loki", "jaeger"):
        assert str(OBSERVABILITY / name / f"{name}.yaml") in " ".join(native[name].command)
        assert f"observability/{name}/{name}.yaml" in copied(name)
    assert "observability/collector/*.yaml" in copied("collector")
    assert {"observability/prometheus/prometheus.yml", "observability/prometheus/rules"} <= set(copied("prometheus"))
    assert {"observability/alertmanager/alertmanager.yml", "observability/alertmanager/receivers"} <= set(copied("alertmanager"))
    assert "observability/grafana/provisioning" in copied("grafana")
    assert "stack/postgres.conf" in copied("postgres")
    assert "stack/valkey.conf" in copied("valkey")
    for target in TARGETS:
        for source in copied(target):
            assert list(CHECKOUT.glob(source)), source


def test_programs_are_started_with_the_same_flags(native: dict[str, Component]) -> None:
    def names(words: list[str]) -> list[str]:
        return [Path(word).name for word in words if word.endswith((".yaml", ".yml"))]

    assert names(command("collector")) == names(native["collector"].command)
    moved = {"config.file", "storage.tsdb.path", "storage.path", "web.listen-address", "cluster.listen-address"}
    for name in ("prometheus", "alertmanager", "loki"):
        ours, theirs = (
            {word.lstrip("-") for word in words if word.lstrip("-").partition("=")[0] not in moved}
            for words in (command(name), native[name].command[1:])
        )
        assert ours == theirs, name
    assert "--cluster.listen-address=" in command("alertmanager")


def test_postgresql_and_valkey_are_set_by_their_files_alone() -> None:
    """The same files as natively; said besides is where to listen, and where to write what need not last."""
    flags = re.findall(r"-c (\w+)=", " ".join(command("postgres")))
    assert flags == ["config_file", "listen_addresses"]
    assert {word for word in command("valkey") if word.startswith("-")} == {"--bind", "--protected-mode", "--dir"}


def test_the_service_has_the_same_settings(settings: Settings) -> None:
    ours = {name.removesuffix("_FILE"): value for name, value in SERVICES["gamepulse"]["environment"].items()}
    theirs = service_environment(settings, load_keys(settings.home))
    # Listening on all addresses is said in the image; which share is traced is a test's to say.
    assert set(ours) - {"GAMEPULSE_TRACE_SAMPLE_RATIO"} == set(theirs) - {"GAMEPULSE_HOST", "GAMEPULSE_PORT", "no_grpc_proxy"}
    for name in ("GAMEPULSE_ENVIRONMENT", "OTEL_SERVICE_NAME"):
        assert ours[name] == theirs[name]


def test_the_database_is_prepared_with_the_same_logins(settings: Settings) -> None:
    keys = load_keys(settings.home)
    environment = SERVICES["migrate"]["environment"]
    said = {
        name.removesuffix("_FILE"): files(keys)["postgres"][Path(path).name]
        for name, path in environment.items()
        if name.endswith("_FILE")
    }
    assert said == {
        "DATABASE_ADMIN_PASSWORD": keys.postgres_password, "OWNER_PASSWORD": keys.database_password, "SERVICE_PASSWORD": keys.service_password,
        "MONITOR_PASSWORD": keys.monitor_password, "GRAFANA_READER_PASSWORD": keys.grafana_password,
    }  # fmt: skip
    native, ours = service_database_url(settings, keys), files(keys)["gamepulse"]["database-url"]
    assert ours == native.replace(settings.address("postgres"), "postgres:5432")


def test_labels_are_the_same(native: dict[str, Component]) -> None:
    labelled = {name for name, one in native.items() if "GAMEPULSE_ENVIRONMENT" in one.environment}
    assert labelled == {"gamepulse", "collector", "prometheus"}
    said = {SERVICES[name]["environment"]["GAMEPULSE_ENVIRONMENT"] for name in labelled}
    assert said == {native[name].environment["GAMEPULSE_ENVIRONMENT"] for name in labelled}
    targets = json.loads((CHECKOUT / "docker/prometheus/targets.json").read_text())
    in_aws = json.loads((CHECKOUT / "docker/prometheus/aws/targets/stack.json").read_text())
    found = [one for one in targets if one["labels"]["job"] != "collector"]  # there are many of those in AWS
    assert in_aws == [one | {"targets": [re.sub(":", ".gamepulse.internal:", *one["targets"])]} for one in found]
    collectors = yaml.safe_load((CHECKOUT / "docker/prometheus/aws/scrape/collectors.yml").read_text())["scrape_configs"]
    assert [one["relabel_configs"] for one in collectors] == [[{"target_label": "job", "replacement": "collector"}]]
    assert {one["labels"]["job"] for one in targets} == set(SCRAPED)
    assert {(one["labels"]["job"], LISTENERS[one["targets"][0]]) for one in targets} == set(SCRAPED.items())


def test_every_address_leads_to_the_port_that_the_program_has_natively() -> None:
    texts = [json.dumps(one.get("environment", {})) for one in SERVICES.values()]
    texts += [path.read_text() for path in (CHECKOUT / "docker/prometheus").glob("*.json")]
    texts += [
        re.sub(r"#.*", "", path.read_text()) for name in ("collector", "jaeger") for path in (OBSERVABILITY / name).glob("*.yaml")
    ]
    found = {address for text in texts for address in re.findall(rf"\b(?:{'|'.join(SERVICES)}):\d+", text)}
    assert len(found) > 8
    for address in found:
        assert LISTENERS[address] in MOVED or PORTS[LISTENERS[address]] == int(address.partition(":")[2]), address


def test_what_compose_does_not_set_has_a_default() -> None:
    for name, paths in (("collector", ["otel-collector-config.yaml", "infrastructure.yaml"]), ("jaeger", ["jaeger.yaml"])):
        text = "".join((OBSERVABILITY / name / path).read_text() for path in paths)
        required = set(re.findall(r"\$\{env:(\w+)\}", text))
        assert required <= set(SERVICES[name]["environment"]), name
        assert set(SERVICES[name]["environment"]) - {"OTEL_TRACES_SAMPLER"} <= set(re.findall(r"\$\{env:(\w+)", text)), name


def test_grafana_has_the_same_settings(settings: Settings) -> None:
    ours, theirs = SERVICES["grafana"]["environment"], grafana_environment(settings, load_keys(settings.home))
    native_only = {"GF_SERVER_HTTP_ADDR", "GF_SERVER_HTTP_PORT", "GF_PATHS_PROVISIONING", "POSTGRES_PASSWORD"}
    assert set(theirs) - native_only == set(ours)
    assert {name: value for name, value in theirs.items() if name.startswith("GF_") and name not in native_only} == {
        name: value for name, value in ours.items() if name.startswith("GF_")
    }
    assert "POSTGRES_PASSWORD=" in SERVICES["grafana"]["entrypoint"][2]


def test_k6_sends_its_metrics_as_make_load_does() -> None:
    ours = SERVICES["load"]["environment"]
    theirs = exporting({"urls": {"prometheus": "http://prometheus:9090"}}, "run")
    assert {name: value for name, value in ours.items() if name.startswith(("K6_O", "OTEL_EXPORTER"))} == {
        name: value for name, value in theirs.items() if name != "OTEL_RESOURCE_ATTRIBUTES"
    }
    of_run = [pair for pair in theirs["OTEL_RESOURCE_ATTRIBUTES"].split(",") if pair.endswith("=run")]
    assert {*ours["OTEL_RESOURCE_ATTRIBUTES"].split(","), *of_run} == set(theirs["OTEL_RESOURCE_ATTRIBUTES"].split(","))
    assert [pair.replace("=run", "=$RUN") for pair in of_run] == re.findall(r"(service\.instance\.id=\S+);", TARGETS["load"])


# -- rules of the house ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_container_is_limited(name: str) -> None:
    one = SERVICES[name]
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one.get("cap_add", []) == (["CHOWN"] if name == "keys" else [])  # it gives each key to its user
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in one
    assert 0 < one["cpus"] <= 2
    assert re.fullmatch(r"\d+m|1g", one["mem_limit"])
    assert one["pids_limit"] == 512
    assert one["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert (one.get("user") == "0:0") == (name == "keys")


@pytest.mark.parametrize("name", SERVICES)
def test_every_volume_of_an_image_is_given(name: str) -> None:
    """Else the engine makes one at each start, and leaves it behind."""
    target = SERVICES[name]["image"].partition("/")[2].partition(":")[0]
    built_on = "root" if target in {"gamepulse", "operations", "demo"} else None
    declared = {
        path
        for one in filter(None, (target, built_on))
        for said in re.findall(r"^VOLUME (\[.*\])$", TARGETS[one], re.MULTILINE)
        for path in json.loads(said)
    }
    # Those of the makers' images that the comments in docker/Dockerfile tell of, and PostgreSQL's.
    declared |= {"prometheus": {"/prometheus"}, "alertmanager": {"/alertmanager"}, "postgres": {"/var/lib/postgresql"}}.get(
        target, set()
    )
    given = {volume.split(":")[1] for volume in SERVICES[name].get("volumes", [])} | set(SERVICES[name].get("tmpfs", []))
    assert declared <= given


def test_what_programs_keep_outlives_them() -> None:
    kept = {name: {volume.partition(":")[0] for volume in one.get("volumes", [])} - {"keys"} for name, one in SERVICES.items()}
    keepers = ("postgres", "collector", "prometheus", "alertmanager", "loki", "jaeger", "grafana")
    assert {name: volumes for name, volumes in kept.items() if volumes} == {name: {name} for name in keepers}
    assert set(COMPOSE["volumes"]) == {"keys", *keepers}
    assert {SERVICES[name]["restart"] for name in PROGRAMS} == {"unless-stopped"}


@pytest.mark.parametrize("name", sorted(PROGRAMS - {"demo"}))
def test_program_says_how_it_is(name: str) -> None:
    assert re.search(r"^HEALTHCHECK --interval=", TARGETS[name], re.MULTILINE)


def test_only_what_a_person_opens_is_published() -> None:
    published = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert published == {"gamepulse": ["127.0.0.1:8080:8080"], "grafana": ["127.0.0.1:3000:3000"]}
    assert COMPOSE["networks"]["back"] == {"internal": True}
    assert {name for name, one in SERVICES.items() if "front" in one.get("networks", [])} == {"gamepulse", "grafana", "demo"}
    assert SERVICES["demo"]["networks"] == ["front"]


def test_versions_are_pinned() -> None:
    bases = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", "".join(DOCKERFILES.values()), re.MULTILINE))
    assert len(bases) == 11
    assert bases["GRAFANA_IMAGE"] == GRAFANA_IMAGE
    assert f"go.k6.io/k6 v{bases['K6_IMAGE'].partition(':')[2]}" in (CHECKOUT / "stack/programs/k6/go.mod").read_text()
    for name, image in bases.items():
        assert re.fullmatch(r"(?:[\w-]+/)?[\w-]+:v?\d+\.\d+(\.\d+)?(-[a-z-]+)?", image), name
    froms = {base for text in DOCKERFILES.values() for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE)}
    assert froms - set(TARGETS) - {"scratch"} == {f"${{{name}}}" for name in bases}
    assert {one["image"].partition(":")[2] for one in SERVICES.values()} == {__version__}
    assert {re.findall(r"^ARG VERSION=(\S+)", DOCKERFILES["Dockerfile"], re.MULTILINE)[0]} == {__version__}


def test_each_image_of_compose_is_built_by_one_service() -> None:
    built = [(one["image"], one["build"]["target"]) for one in SERVICES.values() if "build" in one]
    assert {image for image, _ in built} == {one["image"] for one in SERVICES.values()}
    assert len(built) == len({image for image, _ in built})
    for image, target in built:
        assert image == f"gamepulse/{target}:{__version__}"


def test_keys_belong_to_the_users_of_the_images() -> None:
    said = {name: int(re.findall(r"^USER (\d+):", TARGETS[name], re.MULTILINE)[0]) for name in ("gamepulse", "demo")}
    assert said == {name: USERS[name] for name in said}
    assert SERVICES["postgres"]["user"] == f"{USERS['postgres']}:{USERS['postgres']}"
    assert f"--chown={USERS['collector']}:" in TARGETS["collector"]


def test_every_key_file_that_is_named_is_made(tmp_path: Path) -> None:
    made = {f"{user}/{name}" for user, content in files(load_keys(tmp_path)).items() for name in content}
    texts = (CHECKOUT / "compose.yaml").read_text(), *DOCKERFILES.values()
    named = {path for text in texts for path in re.findall(r"/run/keys/(\w+/[\w.-]+)", text)}
    assert named <= made
    assert made - named == {"demo/stack.json"}  # the replay looks for it in its --home


def test_order_of_the_start() -> None:
    def before(name: str) -> set[str]:
        direct = set(SERVICES[name].get("depends_on", {}))
        return direct | {earlier for one in direct for earlier in before(one)}

    assert before("gamepulse") >= {"keys", "postgres", "migrate", "valkey"}
    assert before("demo") >= {"gamepulse"}
    assert before("collector") >= {"migrate"}
    assert before("grafana") >= {"migrate"}
    for one in SERVICES.values():
        for needed, how in one.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed in STEPS else "service_healthy"
            assert how == {"condition": wanted}
