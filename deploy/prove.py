"""What cannot be shown without an account, as steps that look at a real one: `make prove` writes what it saw into evidence.json."""

import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from deploy import trial
from deploy.account import Account, check, run_task, smoke, tell
from deploy.config import REGION, ZONES
from deploy.purge import retained, take
from deploy.release import STACKS, Cdk, deploy, destroy
from stack.settings import CHECKOUT, Problem

LOAD_MINUTES = 10
RESTORE_LIMIT_S = 3600
RESTORABLE_LIMIT_S = 1200
FAULT_LIMIT_S = 1800
REACH_LIMIT_S = 5
PRIVATE_PORTS = (22, 2049, 3000, 3100, 4317, 4318, 5432, 6379, 8080, 8888, 9090, 9093, 16686)

type Seen = dict[str, Any]


class NotHeld(Exception):
    """A claim that is not so; its text says what was seen instead."""


@dataclass
class Evidence:
    """Of one claim: did it hold, and what was seen."""

    claim: str
    held: bool | None
    """None: it was not tried, because of `seen`."""
    seen: Seen | str
    took_s: float


@dataclass
class Proof:
    """One run. `cap_usd`: what it may cost, at `usd_an_hour`."""

    account: Account
    cap_usd: float
    usd_an_hour: float
    began: float = field(default_factory=time.monotonic)
    evidence: list[Evidence] = field(default_factory=list)

    @property
    def spent_usd(self) -> float:
        return (time.monotonic() - self.began) / 3600 * self.usd_an_hour

    def try_claim(self, claim: str, look: Callable[[], Seen], *, always: bool = False) -> None:
        """Note what `look` sees. Beyond the cap nothing is tried but what must be (`always`)."""
        started = time.monotonic()
        held: bool | None
        seen: Seen | str
        if not always and self.spent_usd > self.cap_usd:
            held, seen = None, f"{self.spent_usd:.2f} USD are spent, of {self.cap_usd:.2f} that it may cost"
        else:
            tell(claim)
            try:
                held, seen = True, look()
            except NotHeld as error:
                held, seen = False, str(error)
            except (Problem, BotoCoreError, ClientError, httpx.HTTPError, OSError, subprocess.TimeoutExpired) as error:
                # What could not be looked at has not held either, and the next claims are still tried.
                held, seen = False, str(error) if isinstance(error, Problem) else f"{type(error).__name__}: {error}"
        self.evidence.append(Evidence(claim, held, seen, round(time.monotonic() - started, 1)))
        tell(f"{'held' if held else 'not tried' if held is None else 'NOT HELD'}: {claim}")

    def write(self, path: Path) -> bool:
        """Whether all was tried and held."""
        config = self.account.config
        said = {
            "environment": config.environment,
            "account": config.account,
            "version": config.version,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "spent_usd_about": round(self.spent_usd, 2),
            "claims": [asdict(one) for one in self.evidence],
        }
        path.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")
        return all(one.held for one in self.evidence)


def expect(seen: Seen, wanted: Seen) -> Seen:
    """What was seen. Raises NotHeld when it is not what was wanted."""
    if wrong := {name: (seen.get(name), value) for name, value in wanted.items() if seen.get(name) != value}:
        raise NotHeld(", ".join(f"{name} is {was!r}, not {value!r}" for name, (was, value) in wrong.items()))
    return seen


def database_is_as_required(account: Account) -> Seen:
    rds = account.client("rds")
    [one] = rds.describe_db_instances(DBInstanceIdentifier=account.config.database_name)["DBInstances"]
    return expect(
        {
            "multi_az": one["MultiAZ"],
            "encrypted": one["StorageEncrypted"],
            "public": one["PubliclyAccessible"],
            "iam": one["IAMDatabaseAuthenticationEnabled"],
            "backup_days": one["BackupRetentionPeriod"],
            "version": one["EngineVersion"],
        },
        {"multi_az": True, "encrypted": True, "public": False, "iam": True, "backup_days": 14},
    )


def services_run(account: Account) -> Seen:
    """Every service has as many tasks as it should, all of this version."""
    ecs, config = account.client("ecs"), account.config
    cluster = config.stack_name("cluster")
    arns = ecs.list_services(cluster=cluster, maxResults=10)["serviceArns"]
    services = ecs.describe_services(cluster=cluster, services=arns)["services"]
    images = {
        image["image"].rpartition(":")[2]
        for one in services
        for image in ecs.describe_task_definition(taskDefinition=one["taskDefinition"])["taskDefinition"]["containerDefinitions"]
    }
    seen = {
        "services": sorted(one["serviceName"] for one in services),
        "short": sorted(one["serviceName"] for one in services if one["runningCount"] < one["desiredCount"]),
        "versions": sorted(images),
    }
    names = ["alertmanager", "gamepulse-app", "grafana", "infrastructure", "jaeger", "loki", "prometheus"]
    return expect(seen, {"services": names, "short": [], "versions": [config.version]})


def tasks_are_in_several_zones(account: Account) -> Seen:
    ecs, cluster = account.client("ecs"), account.config.stack_name("cluster")
    arns = ecs.list_tasks(cluster=cluster, serviceName="gamepulse-app", desiredStatus="RUNNING")["taskArns"]
    tasks = ecs.describe_tasks(cluster=cluster, tasks=arns)["tasks"] if arns else []
    zones = sorted({one["availabilityZone"] for one in tasks})
    if len(zones) < 2:
        raise NotHeld(f"the service's tasks are in {zones}")
    return {"zones": zones}


def tls_is_new_enough(host: str, port: int = 443) -> Seen:
    """TLS 1.2 is spoken, 1.1 is refused, the certificate is for the host."""
    context = ssl.create_default_context()
    with socket.create_connection((host, port), 10) as plain, context.wrap_socket(plain, server_hostname=host) as secure:
        seen = {"version": secure.version(), "cipher": (secure.cipher() or ("",))[0]}
    return seen | {"tls_1_1": f"refused: {old_tls_is_refused(host, port)}"}


def old_tls_is_refused(host: str, port: int) -> str:
    """How TLS 1.1 is refused. Asked for in octets: this machine's OpenSSL may not speak it. Raises NotHeld."""
    with socket.create_connection((host, port), 10) as plain:
        plain.sendall(hello_of_tls_1_1(host))
        try:
            answer = plain.recv(7)
        except ConnectionResetError:
            return "connection reset"
    match answer[:1]:
        case b"":
            return "connection closed"
        case b"\x15":
            return f"alert {answer[6]}" if len(answer) > 6 else "alert"
        case b"\x16":
            raise NotHeld(f"{host} still speaks TLS 1.1")
    raise NotHeld(f"{host} answers TLS 1.1 with {answer!r}")


def hello_of_tls_1_1(host: str) -> bytes:
    """A ClientHello (RFC 4346, 7.4.1.2) that offers TLS 1.1 at most, with what servers of its time took."""
    ciphers = bytes.fromhex("c013 c014 c009 c00a 0033 0039 002f 0035 000a")
    name = _counted(b"\0" + _counted(host.encode()))
    groups, formats = _counted(bytes.fromhex("0017 0018 0019")), b"\x01\0"
    extensions = b"".join(kind.to_bytes(2) + _counted(body) for kind, body in ((0, name), (10, groups), (11, formats)))
    body = b"\x03\x02" + os.urandom(32) + b"\0" + _counted(ciphers) + b"\x01\0" + _counted(extensions)
    return b"\x16\x03\x01" + _counted(b"\x01" + len(body).to_bytes(3) + body)


def _counted(body: bytes) -> bytes:
    """After its length."""
    return len(body).to_bytes(2) + body


def origin_is_closed(account: Account) -> Seen:
    """The load balancer answers nobody but CloudFront, and at no other port."""
    host = account.config.origin
    is_open = [port for port in (443, *PRIVATE_PORTS) if _answers(host, port)]
    if is_open:
        raise NotHeld(f"{host} can be reached at {is_open}")
    answer = httpx.get(f"http://{host}/", timeout=10)
    return expect(
        {"port_80": answer.status_code, "location": answer.headers.get("location", "")[:8]},
        {"port_80": 301, "location": "https://"},
    )


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), REACH_LIMIT_S).close()
    except OSError:
        return False
    return True


def data_stores_are_unreachable(account: Account) -> Seen:
    rds = account.client("rds")
    [one] = rds.describe_db_instances(DBInstanceIdentifier=account.config.database_name)["DBInstances"]
    [group] = account.client("elasticache").describe_replication_groups(ReplicationGroupId=account.config.stack_name("cache"))[
        "ReplicationGroups"
    ]
    cache = group["NodeGroups"][0]["PrimaryEndpoint"]
    reached = [host for host, port in ((one["Endpoint"]["Address"], 5432), (cache["Address"], 6379)) if _answers(host, port)]
    if reached:
        raise NotHeld(f"can be reached from here: {reached}")
    return {"tried": 2, "reached": 0}


@contextmanager
def asked_all_the_while(url: str, every_s: float = 1) -> Iterator[Seen]:
    """Ask each second, and note how often there was no answer of 200."""
    seen: Seen = {"asked": 0, "failed": 0}
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=5) as client:
            while not over.wait(every_s):
                seen["asked"] += 1
                try:
                    seen["failed"] += client.get(url).status_code != 200
                except httpx.HTTPError:
                    seen["failed"] += 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield seen
    finally:
        over.set()
        asking.join()


def a_task_is_lost(account: Account) -> Seen:
    """One of the service's tasks is stopped: another takes its place, and people notice nothing."""
    ecs, cluster = account.client("ecs"), account.config.stack_name("cluster")
    arns = ecs.list_tasks(cluster=cluster, serviceName="gamepulse-app", desiredStatus="RUNNING")["taskArns"]
    with asked_all_the_while(f"https://{account.config.play}/health/ready") as seen:
        ecs.stop_task(cluster=cluster, task=arns[0], reason="make prove")
        deadline = time.monotonic() + FAULT_LIMIT_S
        while arns[0] in (now := ecs.list_tasks(cluster=cluster, serviceName="gamepulse-app")["taskArns"]) or len(now) < len(arns):
            if time.monotonic() > deadline:
                raise NotHeld("no other task took its place")
            time.sleep(5)
    return expect(seen, {"failed": 0})


def a_zone_is_lost(account: Account) -> Seen:
    """By AWS FIS (deploy/faults.py): subnets of a zone reach nobody, its tasks end, the database fails over."""
    fis = account.client("fis")
    name = account.config.stack_name("lost-zone")
    [template] = [one["id"] for one in fis.list_experiment_templates()["experimentTemplates"] if one["tags"].get("Name") == name]
    with asked_all_the_while(f"https://{account.config.play}/health/ready") as seen:
        started = fis.start_experiment(experimentTemplateId=template)["experiment"]["id"]
        deadline = time.monotonic() + FAULT_LIMIT_S
        while (status := fis.get_experiment(id=started)["experiment"]["state"]["status"]) in {"pending", "initiating", "running"}:
            if time.monotonic() > deadline:
                fis.stop_experiment(id=started)
                raise NotHeld("the experiment did not end")
            time.sleep(10)
    seen |= {"zone": ZONES[0], "experiment": status, "failed_share": seen["failed"] / max(1, seen["asked"])}
    if status != "completed" or seen["failed_share"] > 0.05:
        raise NotHeld(f"{seen}")
    return seen


def database_can_be_restored(account: Account) -> Seen:
    """A batch is sent, and the database restored to a moment after it, beside the one that runs: it has all."""
    rds, source = account.client("rds"), account.config.database_name
    target, sent_at = f"{source}-proof", datetime.now(UTC)
    sent = trial.send(account)
    live = trial.stored(account)
    one = _restorable_after(rds, source, datetime.now(UTC))
    rds.restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier=source,
        TargetDBInstanceIdentifier=target,
        UseLatestRestorableTime=True,
        DBSubnetGroupName=one["DBSubnetGroup"]["DBSubnetGroupName"],
        DBParameterGroupName=one["DBParameterGroups"][0]["DBParameterGroupName"],
        VpcSecurityGroupIds=[group["VpcSecurityGroupId"] for group in one["VpcSecurityGroups"]],
        MultiAZ=False,
        DeletionProtection=False,
    )
    started = time.monotonic()
    try:
        rds.get_waiter("db_instance_available").wait(
            DBInstanceIdentifier=target, WaiterConfig={"Delay": 30, "MaxAttempts": RESTORE_LIMIT_S // 30}
        )
        took_s = round(time.monotonic() - started)
        [restored] = rds.describe_db_instances(DBInstanceIdentifier=target)["DBInstances"]
        seen = {"sent_at": sent_at.isoformat(), "sent": sent, "stored": live, "took_s": took_s}
        seen |= {"restorable_to": one["LatestRestorableTime"].isoformat()}
        seen |= {"restored": trial.stored(account, restored["Endpoint"]["Address"])}
        return expect(seen, {"sent": trial.BATCH, "restored": max(live, sent)})
    finally:
        rds.delete_db_instance(DBInstanceIdentifier=target, SkipFinalSnapshot=True, DeleteAutomatedBackups=True)


def _restorable_after(rds: Any, name: str, moment: datetime) -> Seen:
    """The instance, as soon as it can be restored to a later moment: RDS keeps its log each five minutes."""
    deadline = time.monotonic() + RESTORABLE_LIMIT_S
    while True:
        [one] = rds.describe_db_instances(DBInstanceIdentifier=name)["DBInstances"]
        if one["LatestRestorableTime"] > moment:
            return dict(one)
        if time.monotonic() > deadline:
            raise NotHeld(f"after {RESTORABLE_LIMIT_S} s it can be restored to {one['LatestRestorableTime']}, before {moment}")
        time.sleep(15)


def metrics_are_backed_up(account: Account) -> Seen:
    """The nightly job, now: what it puts into the bucket is there."""
    run_task(account, "backup", "backup")
    s3 = account.client("s3", REGION)
    found = s3.list_objects_v2(Bucket=account.config.bucket_name("backups"), Prefix="prometheus/").get("Contents", [])
    if not found:
        raise NotHeld("the bucket has no snapshot of Prometheus")
    newest = max(found, key=lambda one: one["LastModified"])
    return {"object": newest["Key"], "bytes": newest["Size"]}


def load_is_answered(account: Account) -> Seen:
    """k6's players (docs/load.md); afterwards PostgreSQL has what was answered as safe, neither more nor less."""
    config, key, before = account.config, trial.ingest_key(account), trial.stored(account)
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder) / "summary.json"
        told = {"TARGET": f"https://{config.play}", "ALLOW_HOST": config.play, "SUMMARY": str(summary)}
        told |= {"GAME": trial.GAME, "INGEST_KEY": key}
        command = [sys.executable, "-m", "tests.load", "load"]
        done = subprocess.run(command, cwd=CHECKOUT, env=os.environ | told, timeout=60 * LOAD_MINUTES, check=False)
        if not summary.exists():
            raise NotHeld(f"k6 did not run: it ended with {done.returncode}")
        metrics = json.loads(summary.read_text())["metrics"]
    safe, lost = (int(metrics.get(name, {"values": {"count": 0}})["values"]["count"]) for name in ("reports_safe", "batches_lost"))
    seen = {"exit": done.returncode, "answered_as_safe": safe, "batches_lost": lost, "stored": trial.stored(account) - before}
    return expect(seen, {"exit": 0, "batches_lost": 0, "stored": max(1, safe)})


def answers(account: Account) -> Seen:
    smoke(account.config)
    return {"play": account.config.play, "grafana": account.config.grafana}


def prove(account: Account, cdk: Cdk, *, cap_usd: float, usd_an_hour: float, keep: bool, to: Path) -> bool:
    """Deploy, look, strike, restore, and destroy again unless `keep`; what was seen is in `to`. Whether all held.

    What has data is taken away, too, if nothing stood there before.

    Raises Problem before anything is made, when nothing can be.
    """
    if account.config.is_production:
        raise Problem("Production is not proven: tasks are stopped and a zone is taken away. ENV=staging.")
    proof, config = Proof(account, cap_usd, usd_an_hour), account.config

    def deployed() -> Seen:
        deploy(account, cdk)
        return {"version": config.version}

    def standing() -> list[str]:
        return [part for part, region in STACKS.items() if account.stack_exists(config.stack_name(part), region)]

    def gone() -> Seen:
        destroy(account, cdk)
        return expect({"stacks_left": standing()}, {"stacks_left": []})

    def purged() -> Seen:
        if left := standing():
            raise NotHeld(f"stacks are left: {left}")
        found = retained(account, snapshots=True, since=began)
        take(found)
        left = [one.name for one in retained(account, snapshots=True, since=began)]
        return expect({"taken": len(found), "left": left}, {"left": []})

    check(account)
    # What was there before has somebody's data: it is destroyed, but its data is left.
    was_empty, began = not standing(), datetime.now(UTC)
    try:
        proof.try_claim("An empty account becomes a running service by one command", deployed)
        [first] = proof.evidence
        for claim, look in CLAIMS.items():
            if first.held:
                proof.try_claim(claim, partial(look, account))
            else:
                proof.evidence.append(Evidence(claim, None, "it was not deployed", 0))
    finally:
        if not keep:
            proof.try_claim("It is taken away by one command, but for what has data", gone, always=True)
            if was_empty:
                proof.try_claim("What has data goes by one more, and it could be deployed again", purged, always=True)
        held = proof.write(to)
        tell(f"{sum(bool(one.held) for one in proof.evidence)} of {len(proof.evidence)} claims held: {to}")
    return held


def _tls(account: Account) -> Seen:
    return {host: tls_is_new_enough(host) for host in (account.config.play, account.config.grafana)}


CLAIMS: dict[str, Callable[[Account], Seen]] = {
    "The service and Grafana answer": answers,
    "The database is as required": database_is_as_required,
    "All services run, in this version": services_run,
    "The service's tasks are in several zones": tasks_are_in_several_zones,
    "TLS 1.2 or newer, and nothing older": _tls,
    "The load balancer answers nobody but CloudFront": origin_is_closed,
    "The stores cannot be reached from outside": data_stores_are_unreachable,
    "Players are answered within the objectives, and what was answered is stored": load_is_answered,
    "A task is lost, and nobody notices": a_task_is_lost,
    "A zone is lost, and at most one answer in twenty": a_zone_is_lost,
    "The metrics are backed up": metrics_are_backed_up,
    "The database can be restored, with what was answered a moment before": database_can_be_restored,
}
