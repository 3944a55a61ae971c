"""Runs task definitions of the templates on the local engine as Fargate would. What stands for what: docs/containers.md."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from itertools import count
from pathlib import Path
from typing import Any

from docker.client import DockerClient
from docker.errors import NotFound
from docker.models.containers import Container
from docker.types import Healthcheck, Mount

from bench.task import CGROUPS, limits_here
from deploy.config import INTERNAL_DOMAIN
from tests.containers.templates import Json, Templates

STARTS_WITHIN_S = 120
PAUSE = ["/usr/bin/python", "-c", "import signal; signal.pause()"]


@dataclass
class Fargate:
    """Where tasks run and find each other by their names in Cloud Map. A context: nothing is left of it afterwards."""

    templates: Templates
    name: str
    secrets: dict[str, str] = field(default_factory=dict)
    """By their names in Secrets Manager."""
    environ: dict[str, str] = field(default_factory=dict)
    """Put into every container, as Fargate puts in region and credentials."""
    hosts: dict[str, str] = field(default_factory=dict)
    """Addresses of names that no task has."""
    files: dict[str, Path] = field(default_factory=dict)
    """What lies over files of images, where they have them."""

    def __enter__(self) -> "Fargate":
        self.engine = DockerClient.from_env()
        self.network = self.engine.networks.create(self.name, internal=True)  # no way to the real AWS
        self.network.reload()
        self.gateway: str = self.network.attrs["IPAM"]["Config"][0]["Gateway"]
        self._tasks: list[Task] = []
        self._numbers = count()
        self._folders: dict[str, Any] = {}
        return self

    def __exit__(self, *_: object) -> None:
        self.remove_tasks()
        for volume in self._folders.values():
            volume.remove()
        self.network.remove()
        self.engine.close()

    def remove_tasks(self) -> None:
        while self._tasks:
            self._tasks.pop().remove()

    def start(self, family: str) -> "Task":
        """A new task of the family; its containers are started, and perhaps not healthy yet."""
        task = Task(self, self.templates.task(family), f"{self.name}-{family}-{next(self._numbers)}")
        self._tasks.append(task)
        task.start()
        return task

    def folder(self, access_point: str) -> str:
        """The volume that stands for what an access point of EFS shows: it stays when tasks go."""
        if access_point not in self._folders:
            made = self._folders[access_point] = self.engine.volumes.create(f"{self.name}-{access_point.lower()}")
            asked = self.templates.resources("AWS::EFS::AccessPoint")[access_point]["RootDirectory"]["CreationInfo"]
            path = Path(made.attrs["Mountpoint"])
            os.chown(path, int(asked["OwnerUid"]), int(asked["OwnerGid"]))
            path.chmod(int(asked["Permissions"], 8))
        name: str = self._folders[access_point].name
        return name

    def secret(self, value_from: str) -> str:
        """A secret's value, or a field of it (`name:field::`)."""
        name, *rest = value_from.split(":")
        value: str = json.loads(self.secrets[name])[rest[0]] if rest else self.secrets[name]
        return value


class Task:
    """Containers that share a network address, and CPU and memory."""

    def __init__(self, fargate: Fargate, definition: Json, name: str) -> None:
        self.definition = definition
        self.family: str = definition["Family"]
        self.told: dict[str, Json] = {one["Name"]: one for one in definition["ContainerDefinitions"]}
        self.containers: dict[str, Container] = {}
        """In the order in which they were started."""
        self._fargate, self._engine, self._name = fargate, fargate.engine, name
        self._volumes: dict[str, str] = {}
        self._scratch: list[Any] = []

    def start(self) -> None:
        self._make_pause()
        for one in self.definition["Volumes"]:
            point = one.get("EFSVolumeConfiguration", {}).get("AuthorizationConfig", {}).get("AccessPointId")
            if not point:
                self._scratch.append(self._engine.volumes.create(f"{self._name}-{one['Name']}"))
            self._volumes[one["Name"]] = self._fargate.folder(point) if point else self._scratch[-1].name
        waits = {name: [other["ContainerName"] for other in one.get("DependsOn", [])] for name, one in self.told.items()}
        for name in TopologicalSorter(waits).static_order():
            for other in self.told[name].get("DependsOn", []):
                self.wait(other["ContainerName"], other["Condition"])
            self.containers[name] = self._make(self.told[name])
            self.containers[name].start()

    def wait(self, name: str, condition: str, within_s: float = STARTS_WITHIN_S) -> None:
        """Until a container is as `dependsOn` would have it: START, HEALTHY, SUCCESS. Fails when it cannot become so, or not in time."""
        deadline = time.monotonic() + within_s
        while True:
            state = self.state(name)
            has_ended = state["Status"] == "exited"
            if condition == "START" or (has_ended and condition == "SUCCESS" and state["ExitCode"] == 0):
                return
            if condition == "HEALTHY" and state.get("Health", {}).get("Status") == "healthy":
                return
            assert not has_ended and time.monotonic() < deadline, (
                f"{self.family}/{name} is not {condition}: {self.last_words(name)}"
            )
            time.sleep(0.2)

    def wait_healthy(self) -> None:
        for name, one in self.told.items():
            if "HealthCheck" in one:
                self.wait(name, "HEALTHY")

    def stop(self) -> None:
        """What was started last is stopped first; each is killed when its time to stop is over."""
        for name, container in reversed(self.containers.items()):
            container.stop(timeout=self.told[name]["StopTimeout"])

    def state(self, name: str) -> Json:
        self.containers[name].reload()
        state: Json = self.containers[name].attrs["State"]
        return state

    def last_words(self, name: str) -> str:
        return f"{self.state(name)}\n{self.containers[name].logs(tail=20).decode(errors='replace')}"

    @property
    def address(self) -> str:
        self._pause.reload()
        address: str = self._pause.attrs["NetworkSettings"]["Networks"][self._fargate.name]["IPAddress"]
        return address

    @property
    def limits(self) -> dict[Path, object]:
        """The task's own, by the files of its control group."""
        wanted = limits_here(self._name, int(self.definition["Cpu"]) / 1024, int(self.definition["Memory"]) * 2**20)
        return {CGROUPS / group / name: value for group, files in wanted.items() for name, value in files.items()}

    def remove(self) -> None:
        for container in [*reversed(self.containers.values()), self._pause]:
            with suppress(NotFound):
                container.remove(force=True, v=True)
        while self._scratch:
            self._scratch.pop().remove()
        for group in [CGROUPS / self._name, *CGROUPS.glob(f"*/{self._name}")]:
            with suppress(OSError):
                group.rmdir()

    def _make_pause(self) -> None:
        """Who holds the network address, and the control group, for as long as the task lasts."""
        tag = next(iter(self.told.values()))["Image"].rpartition(":")[2]
        network = {self._fargate.name: self._engine.api.create_endpoint_config(aliases=[f"{self.family}.{INTERNAL_DOMAIN}"])}
        made = self._engine.api.create_container(
            f"gamepulse/operations:{tag}",
            PAUSE[1:],
            name=self._name,
            entrypoint=PAUSE[:1],
            networking_config=self._engine.api.create_networking_config(network),
            host_config=self._engine.api.create_host_config(
                network_mode=self._fargate.name, cgroup_parent=f"/{self._name}", extra_hosts=self._fargate.hosts
            ),
        )
        self._pause = self._engine.containers.get(made["Id"])
        self._pause.start()
        for path, value in self.limits.items():
            path.write_text(str(value))

    def _make(self, one: Json) -> Container:
        name = one["Image"].partition("/")[2]  # without the registry
        image = self._engine.images.get(name)
        environ = {each["Name"]: each["Value"] for each in one.get("Environment", [])}
        environ |= {each["Name"]: self._fargate.secret(each["ValueFrom"]) for each in one.get("Secrets", [])}
        memory = f"{one['Memory']}m" if "Memory" in one else None
        mounts = [*self._mounts(one, image), *self._files(image)]
        of_image = set(image.attrs["Config"].get("Volumes") or {})
        return self._engine.containers.create(
            name,
            one.get("Command"),
            name=f"{self._name}-{one['Name']}",
            entrypoint=one.get("EntryPoint"),
            environment=self._fargate.environ | environ,
            user=one.get("User"),
            network_mode=f"container:{self._pause.id}",
            cgroup_parent=f"/{self._name}",
            mem_limit=memory,
            memswap_limit=memory,
            cap_drop=one["LinuxParameters"]["Capabilities"]["Drop"],
            read_only=one["ReadonlyRootFilesystem"],
            init=one["LinuxParameters"]["InitProcessEnabled"],
            mounts=mounts,
            # Where the image has a volume and the task none, the engine would make one that can be written.
            tmpfs=dict.fromkeys(of_image - {mount["Target"] for mount in mounts}, "ro"),
            healthcheck=_health(one),
            # ECS would do so once a minute at most.
            restart_policy={"Name": "always"} if one.get("RestartPolicy", {}).get("Enabled") else None,
        )

    def _mounts(self, one: Json, image: Any) -> Iterator[Mount]:
        """An empty volume is its image's user's only where the image says that it has a volume there; EFS is as it is."""
        of_image = image.attrs["Config"].get("Volumes") or {}
        for point in one.get("MountPoints", []):
            path, volume = point["ContainerPath"], self._volumes[point["SourceVolume"]]
            is_scratch = volume in {each.name for each in self._scratch}
            yield Mount(path, volume, read_only=point["ReadOnly"], no_copy=not is_scratch or path not in of_image)

    def _files(self, image: Any) -> Iterator[Mount]:
        """Only over what the image has: one that lacks a file has it neither here nor there."""
        if not self._fargate.files:
            return
        empty = self._engine.containers.create(image, ["none"], entrypoint="none", network_mode="none")
        try:
            for path, file in self._fargate.files.items():
                with suppress(NotFound):
                    self._engine.api.get_archive(empty.id, path)[0].close()
                    yield Mount(path, str(file), type="bind", read_only=True)
        finally:
            empty.remove(v=True)


def _health(one: Json) -> Healthcheck:
    """What the image says of health does not count."""
    told = one.get("HealthCheck")
    if not told:
        return Healthcheck(test=["NONE"])
    interval, timeout, start = (told[name] * 10**9 for name in ("Interval", "Timeout", "StartPeriod"))
    return Healthcheck(test=told["Command"], interval=interval, timeout=timeout, retries=told["Retries"], start_period=start)
