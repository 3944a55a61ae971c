"""The programs of the campaign, from the stack's own definitions: real, started again whenever they end, on a small disk."""

import asyncio
import ctypes
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import asyncpg
import psutil

from stack import postgres
from stack.components import Component, gamepulse_command, service_environment, stack_components
from stack.keys import Keys, load_keys
from stack.prepare import make_folders, render_prometheus
from stack.programs import ensure_program
from stack.settings import Settings
from tests.faults.network import Network

AGAIN_AFTER_S = 0.2
READY_S = 60
DISK_BYTES = 1 << 30
WORKERS = 2
POSTGRES_OPTIONS = ("max_wal_size=128MB", "checkpoint_timeout=30s", "shared_buffers=64MB")  # for a small disk
# Batches are stored as slowly as on a disk, a few very slowly: random moments lie amid a commit, and who begins first may end last.
SLOW_COMMITS = """
ALTER DATABASE gamepulse SET search_path = public, pg_catalog;  -- so that strikes.LOCKS_LIE can
CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_sleep(CASE WHEN random() < 0.02 THEN random() ELSE random() * 0.02 END);
    RETURN NULL;
END $$;
CREATE TRIGGER slow AFTER INSERT ON raw_batch EXECUTE FUNCTION public.slow();
"""
OWN_MOUNTS, OWN_USER = 0x00020000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER: linux/sched.h
PRIVATE, REMOUNT, DETACH = (1 << 18) | (1 << 14), 1 << 5, 2  # MS_PRIVATE | MS_REC, MS_REMOUNT, MNT_DETACH: linux/mount.h


_libc = ctypes.CDLL(None, use_errno=True)


class Program:
    """One program of the stack; started again when it ends."""

    def __init__(self, component: Component, home: Path) -> None:
        self.name = component.name
        self.ready = component.ready
        self._component = component
        self._home = home
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Keep it running from now on."""
        self._keeper = asyncio.create_task(self._keep())

    @property
    def process(self) -> psutil.Process | None:
        """None while it does not run."""
        if self._process is None or self._process.returncode is not None:
            return None
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._process.pid)
        return None

    async def stop(self) -> None:
        """Kill it and what it has started."""
        if self._keeper is None:
            return
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        process = self.process
        for one in [process, *process.children(recursive=True)] if process else []:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        if self._process is not None:
            await self._process.wait()

    async def _keep(self) -> None:
        component = self._component
        while True:
            with (self._home / "logs" / f"{self.name}.log").open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *component.command, env=os.environ | component.environment, stdout=log, stderr=log, user=component.user, cwd="/"
                )  # fmt: skip
            await self._process.wait()
            await asyncio.sleep(AGAIN_AFTER_S)


class Disk:
    """A file system of DISK_BYTES at `folder`, in memory, which this process and its children alone see: it goes with them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        own_mounts()
        _mount("tmpfs", folder, 0, f"size={DISK_BYTES},mode=0700")

    def fill(self, free_bytes: int) -> None:
        """No more than so much fits from now on. Raises OSError when more was written in that very moment."""
        state = os.statvfs(self._folder)
        _mount("", self._folder, REMOUNT, f"size={(state.f_blocks - state.f_bfree) * state.f_frsize + free_bytes}")

    def clear(self) -> None:
        """It has room again."""
        _mount("", self._folder, REMOUNT, f"size={DISK_BYTES}")

    def close(self) -> None:
        """Take it away, as soon as nobody uses it."""
        _checked(_libc.umount2(os.fsencode(self._folder), DETACH))


def own_mounts() -> None:
    """This process and its children get a view of the file systems of their own; who is not root, by a user namespace.

    Raises RuntimeError where the system does not allow that.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        os.unshare(OWN_MOUNTS | (OWN_USER if uid else 0))
        if uid:
            for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
                Path("/proc/self", name).write_text(text)
        _mount("", Path("/"), PRIVATE, "")
    except OSError as error:
        raise RuntimeError(
            f"The campaign fills PostgreSQL's disk, and cannot mount a small one ({error.strerror}). Run it as root, or allow "
            "user namespaces (sysctl: kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)."
        ) from None


def _mount(kind: str, folder: Path, flags: int, options: str) -> None:
    """mount(2). Raises OSError."""
    _checked(_libc.mount(b"none", os.fsencode(folder), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None))


def _checked(status: int) -> None:
    if status:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Machine:
    """All that runs: PostgreSQL behind `network` and on `disk`, Valkey, two aggregators, the service, Collector and Prometheus."""

    def __init__(self, settings: Settings, disk: Disk) -> None:
        make_folders(settings)
        self.settings = settings
        self.disk = disk
        self.keys: Keys = load_keys(settings.home)
        self.network = Network(settings.port("postgres"))
        self.programs: dict[str, Program] = {}
        self.url = settings.url("gamepulse")
        self.prometheus = settings.url("prometheus")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything runs within."""
        components = {one.name: one for one in stack_components(self.settings, self.keys)}
        try:
            postgres.prepare_data(self.settings, self.keys)
            render_prometheus(self.settings)
            options = [word for option in POSTGRES_OPTIONS for word in ("-c", option)]
            await self._start(
                replace(components["postgres"], command=[*components["postgres"].command, *options]), components["valkey"]
            )
            await asyncio.to_thread(postgres.prepare_database, self.settings, self.keys)
            environment = await self._service_environment()
            await self.run(SLOW_COMMITS)
            second = Component("aggregator", gamepulse_command("aggregate"), lambda: "", environment=environment)
            for name in ("collector", "prometheus"):
                ensure_program(self.settings, name)
            service = replace(components["gamepulse"], environment=environment)
            await self._start(service, second, components["collector"], components["prometheus"])
            yield
        finally:
            for program in reversed(self.programs.values()):
                await program.stop()
            self.network.close()

    async def sql(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """What PostgreSQL says to its superuser, past the proxy."""
        async with self._superuser() as connection:
            rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments, timeout=300)
            return rows

    async def run(self, script: str) -> None:
        """Several statements, all or none of them."""
        async with self._superuser() as connection:
            await connection.execute(script, timeout=10)

    @asynccontextmanager
    async def _superuser(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        port, password = self.settings.port("postgres"), self.keys.postgres_password
        connection = await asyncpg.connect(
            host="127.0.0.1", port=port, user="postgres", password=password, database="gamepulse", timeout=3
        )
        try:
            yield connection
        finally:
            connection.terminate()

    async def ready(self) -> None:
        """Returns once everything says that it is ready. Raises TimeoutError, naming what is not, after READY_S."""
        deadline = time.monotonic() + READY_S
        for program in self.programs.values():
            while why := "it does not run" if program.process is None else await asyncio.to_thread(program.ready):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{program.name} is not ready: {why}")
                await asyncio.sleep(0.1)

    async def _start(self, *components: Component) -> None:
        for component in components:
            self.programs[component.name] = Program(component, self.settings.home)
            self.programs[component.name].start()
        await self.ready()

    async def _service_environment(self) -> Mapping[str, str]:
        """The stack's, but PostgreSQL is behind the proxy."""
        environment = service_environment(self.settings, self.keys)
        url = environment["GAMEPULSE_DATABASE_URL"].replace(
            f":{self.settings.port('postgres')}/", f":{await self.network.start()}/"
        )
        return environment | {
            "GAMEPULSE_DATABASE_URL": url,
            "GAMEPULSE_WORKERS": str(WORKERS),
            "GAMEPULSE_EDGE": "cloudfront",
            "GAMEPULSE_TRACE_SAMPLE_RATIO": "0",
        }
