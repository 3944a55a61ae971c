"""The containers of each task: images, commands, and the settings that differ from those of observability/ and the images."""

from dataclasses import dataclass

from deploy import cache, database
from deploy.config import INTERNAL_DOMAIN, PUBLIC_CIDRS, Config
from deploy.secrets import Secrets
from deploy.signin import SignIn
from deploy.tasks import ENDED, STARTED, STOP_LONGEST_S, Container

COLLECTOR_HEALTH = ("/usr/bin/wget", "-q", "-O", "/dev/null", "http://127.0.0.1:13133/")
COLLECTOR_FILES = "/etc/otelcol-contrib"
RDS_ROOTS = database.ROOTS
NOBODY = "65534:65534"
"""Prometheus' user: so is whoever reads and writes its files."""
TEMPORARY = {"/tmp": "temporary"}  # noqa: S108 (a volume of the task)

PROMETHEUS = f"http://prometheus.{INTERNAL_DOMAIN}:9090"
ALERTMANAGER = f"http://alertmanager.{INTERNAL_DOMAIN}:9093"
LOKI = f"http://loki.{INTERNAL_DOMAIN}:3100"
JAEGER = f"http://jaeger.{INTERNAL_DOMAIN}:16686"
JAEGER_OTLP = f"jaeger.{INTERNAL_DOMAIN}:4317"


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """What programs are told of the data's own stack."""

    database: database.KnownDatabase
    cache_host: str
    backups_bucket: str
    loki_bucket: str
    topic_arn: str


def app(config: Config, at: Addresses, secrets: Secrets) -> list[Container]:
    """The service and the Collector beside it, which is started first and ends last."""
    service = Container(
        name="gamepulse-app",
        image="gamepulse",
        ports=(8080,),
        environment={
            "GAMEPULSE_ENVIRONMENT": config.environment,
            "GAMEPULSE_DATABASE_URL": at.database.url(database.SERVICE),
            "GAMEPULSE_DATABASE_AUTH": "aws-iam",
            "GAMEPULSE_VALKEY_URL": f"rediss://{cache.USER}@{at.cache_host}:{cache.PORT}/0",
            # The load balancer. What it passes on has come through CloudFront: nothing else has the secret header.
            "GAMEPULSE_TRUSTED_PROXIES": ",".join(PUBLIC_CIDRS),
            "GAMEPULSE_EDGE": "cloudfront",
            "GAMEPULSE_STDOUT_LEVEL": "warning",  # CloudWatch is paid by the byte, and Loki has all
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",  # the Collector is beside it
            "OTEL_SERVICE_NAME": "gamepulse",
            "OTEL_RESOURCE_ATTRIBUTES": f"service.version={config.version}",
        },
        secrets={"GAMEPULSE_PLAYER_HASH_KEY": secrets.player_hash_key, "GAMEPULSE_VALKEY_PASSWORD": secrets.cache},
        mounts=TEMPORARY,
        health=("/usr/bin/python", "-m", "gamepulse.probe"),
        after={"otel-collector": STARTED},
        memory_mib=1536,
    )
    return [service, collector(config, files=())]


def collector(config: Config, *, files: tuple[str, ...]) -> Container:
    """`files`: what it reads besides the configuration that every Collector has."""
    configurations = ("otel-collector-config.yaml", *files)
    return Container(
        name="otel-collector",
        image="collector",
        command=tuple(word for name in configurations for word in ("--config", f"{COLLECTOR_FILES}/{name}")),
        ports=(8888,) if files else (4317, 4318, 8888),
        environment={
            "GAMEPULSE_ENVIRONMENT": config.environment,
            # From inside the task only.
            "COLLECTOR_OTLP_GRPC": "127.0.0.1:4317",
            "COLLECTOR_OTLP_HTTP": "127.0.0.1:4318",
            "COLLECTOR_HEALTH": "127.0.0.1:13133",
            "PROMETHEUS_URL": PROMETHEUS,
            "LOKI_URL": LOKI,
            "JAEGER_OTLP": JAEGER_OTLP,
        },
        mounts={"/var/lib/otelcol/queue": "queue"},
        health=COLLECTOR_HEALTH,
        health_start_s=30,
        memory_mib=512,
        stop_s=30,
    )


def infrastructure(config: Config, at: Addresses, secrets: Secrets) -> list[Container]:
    """The one Collector that asks PostgreSQL, Valkey and public addresses how they are."""
    one = collector(config, files=("infrastructure.yaml", "certificates.yaml"))
    told = {
        "POSTGRES_ADDRESS": at.database.address,
        "POSTGRES_CA": RDS_ROOTS,
        "VALKEY_ADDRESS": f"{at.cache_host}:{cache.PORT}",
        "VALKEY_USER": cache.USER,
        "COLLECTOR_MEMORY_MIB": "300",
        "PUBLIC_URLS": f"https://{config.play}/health/live,https://{config.grafana}/api/health",
    }
    return [
        Container(
            name=one.name,
            image=one.image,
            command=one.command,
            ports=one.ports,
            environment={**one.environment, **told},
            secrets={"POSTGRES_MONITOR_PASSWORD": secrets.monitor, "VALKEY_PASSWORD": secrets.cache},
            mounts=one.mounts,
            health=one.health,
            health_start_s=one.health_start_s,
            stop_s=one.stop_s,
        )
    ]


def prometheus(config: Config) -> list[Container]:
    """Its newest snapshot is brought back before it starts; one is taken each hour, and when Prometheus has ended."""
    disk, both = {"/prometheus": "tsdb"}, {"/prometheus": "tsdb", "/prometheus-data": "prometheus-data", **TEMPORARY}
    return [
        Container(
            name="restore",
            image="operations",
            command=("restore",),
            user=NOBODY,
            mounts=both,
            essential=False,
            restart=False,
            stop_s=STOP_LONGEST_S,
        ),
        Container(
            name="snapshots",
            image="operations",
            command=("snapshots",),
            user=NOBODY,
            mounts=both,
            after={"restore": ENDED},
            stop_s=STOP_LONGEST_S,
        ),
        Container(
            name="prometheus",
            image="prometheus",
            command=(
                "--config.file=/etc/prometheus/aws/prometheus.yml",
                "--storage.tsdb.path=/prometheus",
                "--web.enable-otlp-receiver",
                "--enable-feature=exemplar-storage",
                "--web.enable-admin-api",
            ),
            ports=(9090,),
            environment={"GAMEPULSE_ENVIRONMENT": config.environment},
            mounts=disk,
            health=("wget", "-q", "-O", "/dev/null", "http://127.0.0.1:9090/-/ready"),
            health_start_s=300,  # it reads what was written since the last block
            # What is started before it ends after it: then all that it took lies in its folder.
            after={"restore": ENDED, "snapshots": STARTED},
            stop_s=STOP_LONGEST_S,
        ),
    ]


def alertmanager(config: Config, at: Addresses) -> list[Container]:
    return [
        Container(
            name="alertmanager",
            image="alertmanager",
            ports=(9093,),
            environment={
                "ALERT_RECEIVER": "sns",
                "ALERT_TARGET": at.topic_arn,
                "REPOSITORY_URL": f"https://github.com/{config.repository}/blob/{config.version}",
                "GRAFANA_URL": f"https://{config.grafana}",
            },
            mounts={"/alertmanager": "silences", **TEMPORARY},
            health=("wget", "-q", "-O", "/dev/null", "http://127.0.0.1:9093/-/ready"),
        )
    ]


def loki(at: Addresses) -> list[Container]:
    return [
        Container(
            name="loki",
            image="loki",
            ports=(3100,),
            environment={"LOKI_STORE": "s3", "LOKI_BUCKET": at.loki_bucket},
            mounts={"/loki": "write-ahead", **TEMPORARY},
            health=("/usr/bin/loki", "-health"),
            health_start_s=120,
            stop_s=STOP_LONGEST_S,  # it writes what it has to S3
        )
    ]


def jaeger() -> list[Container]:
    return [
        Container(
            name="jaeger",
            image="jaeger",
            ports=(16686, 4317, 8888),
            environment={
                "JAEGER_DATA": "/jaeger-data",
                "JAEGER_HEALTH": "127.0.0.1:13133",
                "PROMETHEUS_URL": PROMETHEUS,
                "OTEL_TRACES_SAMPLER": "always_off",
            },
            mounts={"/jaeger-data": "jaeger-data", **TEMPORARY},
            health=("wget", "-q", "-O", "/dev/null", "http://127.0.0.1:13133/status"),
            health_start_s=120,
        )
    ]


def grafana(config: Config, at: Addresses, secrets: Secrets, signs_in: SignIn) -> list[Container]:
    """Its state is in PostgreSQL; people sign in at Cognito, with a second factor."""
    return [
        Container(
            name="grafana",
            image="grafana",
            ports=(3000,),
            environment={
                "GF_PATHS_PROVISIONING": "/etc/grafana/aws",
                "GF_PATHS_LOGS": "/tmp",  # noqa: S108 (a volume of the task)
                "GF_LOG_MODE": "console",
                "GF_LOG_CONSOLE_FORMAT": "json",
                "GF_SERVER_ROOT_URL": f"https://{config.grafana}/",
                "GF_DATABASE_TYPE": "postgres",
                "GF_DATABASE_HOST": at.database.address,
                "GF_DATABASE_NAME": "grafana",
                "GF_DATABASE_USER": "grafana",
                "GF_DATABASE_SSL_MODE": "verify-full",
                "GF_DATABASE_CA_CERT_PATH": RDS_ROOTS,
                "GF_SECURITY_COOKIE_SECURE": "true",
                "GF_SECURITY_STRICT_TRANSPORT_SECURITY": "true",
                "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",  # so that nobody has a password
                "GF_AUTH_ANONYMOUS_ENABLED": "false",
                "GF_AUTH_DISABLE_LOGIN_FORM": "true",
                "GF_AUTH_BASIC_ENABLED": "false",
                "GF_AUTH_SIGNOUT_REDIRECT_URL": (
                    f"{signs_in.url}/logout?client_id={signs_in.client_id}&logout_uri=https%3A%2F%2F{config.grafana}%2Flogin"
                ),
                **_oauth(signs_in),
                "GF_SNAPSHOTS_EXTERNAL_ENABLED": "false",
                "GF_USERS_ALLOW_SIGN_UP": "false",
                "GF_ANALYTICS_REPORTING_ENABLED": "false",
                "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
                "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
                "GF_PLUGINS_PREINSTALL_DISABLED": "true",
                "GF_PLUGINS_PREINSTALL_AUTO_UPDATE": "false",
                "PROMETHEUS_URL": PROMETHEUS,
                "LOKI_URL": LOKI,
                "JAEGER_URL": JAEGER,
                "ALERTMANAGER_URL": ALERTMANAGER,
                "POSTGRES_ADDRESS": at.database.address,
                "POSTGRES_DATABASE": "gamepulse",
                "POSTGRES_USER": "gamepulse_grafana",
                "POSTGRES_TLS": "verify-full",
                "POSTGRES_CA": RDS_ROOTS,
            },
            secrets={
                "GF_DATABASE_PASSWORD": secrets.grafana_state,
                "GF_SECURITY_SECRET_KEY": secrets.grafana_key,
                "GF_AUTH_GENERIC_OAUTH_CLIENT_SECRET": signs_in.client_secret,
                "POSTGRES_PASSWORD": secrets.grafana_reader,
            },
            mounts={"/grafana-config": "grafana-config", "/var/lib/grafana": "data", **TEMPORARY},
            health=("wget", "-q", "-O", "/dev/null", "http://127.0.0.1:3000/api/health"),
            health_start_s=120,
        )
    ]


def _oauth(signs_in: SignIn) -> dict[str, str]:
    """Cognito as Grafana knows it. Who is in no group is refused."""
    groups = 'not_null("cognito:groups", `[]`)'
    roles = {"admins": "Admin", "operators": "Editor", "viewers": "Viewer"}
    told = {
        "ENABLED": "true",
        "NAME": "GamePulse",
        "ALLOW_SIGN_UP": "true",  # who may sign in at Cognito is known here from then on
        "AUTO_LOGIN": "true",
        "USE_PKCE": "true",
        "CLIENT_ID": signs_in.client_id,
        "SCOPES": "openid email profile",
        "AUTH_URL": f"{signs_in.url}/oauth2/authorize",
        "TOKEN_URL": f"{signs_in.url}/oauth2/token",
        "API_URL": f"{signs_in.url}/oauth2/userInfo",
        "LOGIN_ATTRIBUTE_PATH": "email",
        "EMAIL_ATTRIBUTE_PATH": "email",
        "ROLE_ATTRIBUTE_PATH": " || ".join(f"contains({groups}, '{group}') && '{role}'" for group, role in roles.items()),
        "ROLE_ATTRIBUTE_STRICT": "true",
    }
    return {f"GF_AUTH_GENERIC_OAUTH_{name}": value for name, value in told.items()}


def migrate(at: Addresses, secrets: Secrets) -> list[Container]:
    """The database's logins and tables, as this version needs them: run before it starts."""
    return [
        Container(
            name="migrate",
            image="operations",
            command=("migrate",),
            restart=False,
            environment={"DATABASE_ADMIN_URL": at.database.url(database.MASTER, "postgres")},
            json_secrets={"DATABASE_ADMIN_PASSWORD": (at.database.master, "password")},
            secrets={
                "MONITOR_PASSWORD": secrets.monitor,
                "GRAFANA_READER_PASSWORD": secrets.grafana_reader,
                "GRAFANA_PASSWORD": secrets.grafana_state,
            },
            mounts=TEMPORARY,
        )
    ]


def rotate(at: Addresses, cluster: str) -> list[Container]:
    """New passwords for the logins of the Collector and of Grafana; it reads and writes them itself."""
    return [
        Container(
            name="rotate",
            image="operations",
            command=("rotate",),
            restart=False,
            environment={"DATABASE_URL": at.database.url(""), "ECS_CLUSTER": cluster},
            mounts=TEMPORARY,
        )
    ]


def backup(at: Addresses) -> list[Container]:
    """The newest snapshot of Prometheus, into the bucket; with the command `fetch`, out of it."""
    return [
        Container(
            name="backup",
            image="operations",
            command=("backup",),
            restart=False,
            user=NOBODY,
            environment={"BACKUP_BUCKET": at.backups_bucket},
            mounts={"/prometheus-data": "prometheus-data", **TEMPORARY},
            stop_s=STOP_LONGEST_S,
        )
    ]


def console() -> list[Container]:
    """A way for an engineer to a program's own page: SSM's port forwarding goes through it. ECS Exec has to write its own files."""
    return [Container(name="console", image="operations", command=("console",), restart=False, read_only=False)]
