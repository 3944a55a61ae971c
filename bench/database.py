"""A fresh PostgreSQL cluster with its defaults (fsync on), for one run."""

import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from stack.postgres import BINARIES, let_through, unprivileged_user

DURABLE = "SELECT string_agg(setting, ' ') FROM pg_settings WHERE name IN ('fsync','full_page_writes','synchronous_commit')"
# Not a superuser: row-level security binds its roles.
OWNER = "CREATE ROLE bench LOGIN CREATEROLE CREATEDB"
DATABASE = "CREATE DATABASE bench OWNER bench"


@contextmanager
def postgres(folder: Path, port: int) -> Iterator[psutil.Process]:
    """The postmaster of a new cluster in `folder` on 127.0.0.1:`port`, with an empty database; stopped at the end."""
    folder.mkdir()
    user = unprivileged_user()
    if user:
        uid = pwd.getpwnam(user).pw_uid
        folder.chmod(0o700)
        for path in (folder, BINARIES):
            let_through(path, uid)
        subprocess.run(["chown", user, folder], check=True)
    run("initdb", "--pgdata", folder, "--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--no-locale")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
    run("pg_ctl", "start", "--pgdata", folder, "--wait", "--log", folder / "log", "--options", options)
    try:
        query(port, OWNER)
        query(port, DATABASE)
        if query(port, DURABLE) != "on on on":
            raise RuntimeError("PostgreSQL is not durable here: the figures would mean nothing")
        yield psutil.Process(int((folder / "postmaster.pid").read_text().splitlines()[0]))
    finally:
        run("pg_ctl", "stop", "--pgdata", folder, "--wait", "--mode", "fast")


def run(program: str, *arguments: str | Path) -> None:
    """Run one of PostgreSQL's programs as the user it insists on; raises CalledProcessError."""
    command = [BINARIES / program, *arguments]
    subprocess.run(command, check=True, user=unprivileged_user(), cwd="/", stdout=subprocess.DEVNULL)


def query(port: int, statement: str, database: str = "postgres") -> str:
    """The statement's only value, as the superuser."""
    arguments = ["-XAtq", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-d", database, "-c", statement]
    done = subprocess.run([str(BINARIES / "psql"), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def url(port: int) -> str:
    """Where the database is."""
    return f"postgresql://bench@127.0.0.1:{port}/bench"
