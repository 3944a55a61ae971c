"""A fresh PostgreSQL cluster with its defaults (fsync on), for one run."""

import json
import pwd
import re
import statistics
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
# A partitioned table and its partitions are one; indexes and TOAST are in it.
SIZES = """
SELECT json_object_agg(name, bytes) FROM (
    SELECT coalesce(pg_partition_root(oid), oid)::regclass::text AS name, sum(pg_total_relation_size(oid)) AS bytes
    FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' GROUP BY 1
) AS one
"""
WAL = "SELECT pg_current_wal_insert_lsn() - '0/0'"
LONE_COMMITS = ["CREATE TABLE lone_commit (at timestamptz);", "\\timing on", *["INSERT INTO lone_commit VALUES (now());"] * 20]


@contextmanager
def postgres(folder: Path, port: int, commit_delay_ms: int = 0) -> Iterator[psutil.Process]:
    """The postmaster of a new cluster in `folder` on 127.0.0.1:`port`, with an empty database; stopped at the end.

    `commit_delay_ms` lengthens every commit: PostgreSQL sleeps so long before it flushes, whoever else is active.
    """
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
    options += f" -c commit_delay={commit_delay_ms * 1000} -c commit_siblings=0"
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
    """The statement's only row, bars between its values, as the superuser."""
    arguments = ["-XAtq", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-d", database, "-c", statement]
    done = subprocess.run([str(BINARIES / "psql"), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def sizes(port: int) -> dict[str, int]:
    """Bytes on disk of each table of the benchmark's database."""
    found: dict[str, int] = json.loads(query(port, SIZES, "bench") or "{}")
    return found


def wal_bytes(port: int) -> int:
    """Where the WAL ends."""
    return int(query(port, WAL))


def lone_commit_ms(port: int) -> float:
    """How long a commit takes when it is alone: the median of some."""
    arguments = ["-XAtq", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
    done = subprocess.run(
        [str(BINARIES / "psql"), *arguments], input="\n".join(LONE_COMMITS), check=True, capture_output=True, text=True
    )
    return statistics.median(float(time) for time in re.findall(r"Time: ([\d.]+) ms", done.stdout))


def url(port: int) -> str:
    """Where the database is."""
    return f"postgresql://bench@127.0.0.1:{port}/bench"
