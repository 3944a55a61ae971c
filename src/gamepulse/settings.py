"""The settings: read from the environment once, here and nowhere else."""

import os
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gamepulse.batch import SLUG_PATTERN, SLUG_WORDS
from gamepulse.errors import in_words

PREFIX = "GAMEPULSE_"
FILE = "_FILE"
_HASH_KEY_PATTERN, _VALKEY_PATTERN, _GAME_PATTERN = r"^[0-9a-f]{64}$", "^rediss?://.", rf"^$|{SLUG_PATTERN}"
_WORDS = {
    _HASH_KEY_PATTERN: "64 hexadecimal digits in lower case", _VALKEY_PATTERN: "redis://… or rediss://…",
    _GAME_PATTERN: f"a game's name: {SLUG_WORDS}",
}  # fmt: skip
NAMED_BY_OTHERS = {
    "AWS_REGION",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SDK_DISABLED",
    "OTEL_SERVICE_NAME",
}


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What differs between environments. Each field is the variable GAMEPULSE_<NAME>, but for OTEL_… and AWS_…."""

    database_url: str
    """postgresql://user@host:port/database; its user must be a member of the gamepulse_… roles."""
    player_hash_key: Annotated[str, Meta(pattern=_HASH_KEY_PATTERN)]
    """64 hexadecimal digits: the secret under which player ids are hashed, and from which second factors' are made.

    With another one, players are strangers, and second factors have to be enrolled again.
    """
    database_auth: Literal["password", "aws-iam"] = "password"
    """aws-iam: each new connection signs in with a token of its own, made with the task's credentials, instead of a password."""
    valkey_url: Annotated[str, Meta(pattern=_VALKEY_PATTERN)] = "redis://127.0.0.1:6379/0"
    """redis://, or rediss:// for TLS, whose certificate is then verified; a user in it is whom `valkey_password` is for."""
    valkey_password: str = ""
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8080
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    environment: str = "local"
    revision: str = "unknown"
    """The commit that this was built from; images say it."""
    trusted_proxies: str = ""
    """Comma-separated CIDRs whose X-Forwarded-For and CloudFront-Viewer-… headers are believed."""
    geo_database: str = ""
    """Path of an MMDB file for country, subdivision and network; empty: ZZ unless the edge's headers say."""
    pending_reports_max: Annotated[int, Meta(ge=500, le=1_000_000)] = 10_000
    """Reports of a process that wait for their commit; more is answered 503 at once."""
    raw_retention_days: Annotated[int, Meta(ge=1, le=90)] = 7
    minute_retention_days: Annotated[int, Meta(ge=2, le=90)] = 14
    hour_retention_months: Annotated[int, Meta(ge=1, le=60)] = 13
    trace_sample_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.01
    """Share of requests whose trace is kept. Errors and slow requests are kept besides."""
    next_report_s: Annotated[int, Meta(ge=1, le=3600)] = 10
    """When the answer asks a client to report next."""
    ancestor_game: Annotated[str, Meta(pattern=_GAME_PATTERN)] = ""
    """The game of what comes to the ancestor's endpoint, /api/sod/rtt; empty: there is no such endpoint."""
    stdout_level: Literal["info", "warning"] = "info"
    """warning: lines of less, as those of answers below 500, go to the Collector only."""
    otel_exporter_otlp_endpoint: str = ""
    """The Collector's OTLP gRPC address, as http://127.0.0.1:4317; empty: no telemetry leaves but stdout."""
    otel_exporter_otlp_compression: Literal["gzip", "none"] = "gzip"
    otel_service_name: str = "gamepulse"
    otel_resource_attributes: str = ""
    otel_sdk_disabled: bool = False
    """true: no metrics, no traces, no access log; what goes wrong is still told on stdout."""
    aws_region: str = ""
    """Where the database of aws-iam is. ECS sets it."""


def variable(field: str) -> str:
    """The environment variable of a field of Settings."""
    name = field.upper()
    return name if name in NAMED_BY_OTHERS else PREFIX + name


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings from environment variables; GAMEPULSE_<NAME>_FILE names a file that holds the value of GAMEPULSE_<NAME>.

    Raises ValueError, naming the variable, when one is missing, unknown, out of range, or its file cannot be read.
    """
    values = {}
    for name, value in environment.items():
        if name.startswith(PREFIX) and name.endswith(FILE):
            values[name.removeprefix(PREFIX).removesuffix(FILE).lower()] = _content(name, value, environment)
        elif name.startswith(PREFIX):
            values[name.removeprefix(PREFIX).lower()] = value
        elif name in NAMED_BY_OTHERS:
            values[name.lower()] = value
    for name in ("home", "port_offset"):  # read by stack/, not by the service
        values.pop(name, None)
    try:
        settings = msgspec.convert(values, Settings, strict=False)
        for cidr in filter(None, settings.trusted_proxies.split(",")):
            ip_network(cidr.strip())
    except (msgspec.ValidationError, ValueError) as error:
        raise ValueError(f"settings (environment variables {PREFIX}…): {in_words(error, _WORDS)}") from None
    if settings.database_auth == "aws-iam" and not settings.aws_region:
        raise ValueError(f"settings: {PREFIX}DATABASE_AUTH is aws-iam, which needs AWS_REGION")
    return settings


def _content(name: str, path: str, environment: Mapping[str, str]) -> str:
    """What the file holds, without white space around it."""
    if name.removesuffix(FILE) in environment:
        raise ValueError(f"settings: {name} and {name.removesuffix(FILE)} are both set")
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"settings: {name}: the file cannot be read ({type(error).__name__})") from None
