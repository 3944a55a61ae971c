"""How a stack is described before anything of it runs."""

import configparser
import re
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from stack.components import OBSERVABILITY, mount_point, stack_components
from stack.grafana import IMAGE, find_grafana
from stack.keys import load_keys
from stack.lock import only_one
from stack.prepare import check_ports, free_offset, make_folders
from stack.programs import PROGRAMS, cache_key
from stack.settings import PORTS, Problem, Settings, read_settings
from stack.supervise import Supervised, Supervisor, render


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, cache=tmp_path / "cache", port_offset=free_offset())


def test_offset_moves_every_listener_and_none_meets_another() -> None:
    moved = read_settings({"GAMEPULSE_PORT_OFFSET": "1000", "HOME": "/nowhere"})
    assert {moved.port(name) for name in PORTS} == {port + 1000 for port in PORTS.values()}
    assert len(set(PORTS.values())) == len(PORTS)


@pytest.mark.parametrize("offset", ["many", "60000", "-5000"])
def test_impossible_offset_is_refused(offset: str) -> None:
    with pytest.raises(Problem, match="GAMEPULSE_PORT_OFFSET"):
        read_settings({"GAMEPULSE_PORT_OFFSET": offset})


@pytest.mark.parametrize(("text", "demo"), [("0", False), ("1", True), ("", True)])
def test_demo_is_asked_for_by_0_or_1(text: str, demo: bool) -> None:
    assert read_settings({"DEMO": text}).demo is demo
    with pytest.raises(Problem, match="DEMO must be 0 or 1, not 'no'"):
        read_settings({"DEMO": "no"})


def test_cache_key_follows_pins_flags_and_toolchain(tmp_path: Path) -> None:
    (tmp_path / "go.sum").write_text("one")
    program = PROGRAMS["loki"]
    keys = {cache_key(program, tmp_path, "1.26.8"), cache_key(program, tmp_path, "1.27.3")}
    keys.add(cache_key(PROGRAMS["jaeger"], tmp_path, "1.26.8"))
    (tmp_path / "go.sum").write_text("two")
    keys.add(cache_key(program, tmp_path, "1.26.8"))
    assert len(keys) == 4


def test_taken_port_is_named_with_a_way_out(settings: Settings) -> None:
    components = [c for c in stack_components(settings, load_keys(settings.home)) if c.name == "loki"]
    home = f"GAMEPULSE_HOME={settings.home}"  # without it, the advice would be about another stack
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", settings.port("loki")))
        listener.listen()
        with pytest.raises(Problem, match=rf"port {settings.port('loki')}, for loki, .*\n.*make up {home} GAMEPULSE_PORT_OFFSET="):
            check_ports(settings, components)
    check_ports(settings, components)


def test_folder_that_cannot_be_made_is_named(settings: Settings) -> None:
    (settings.home / "loki").write_text("a file")
    with pytest.raises(Problem, match=f"{settings.home}/loki cannot be made: File exists"):
        make_folders(settings)


def test_keys_are_made_once_and_read_by_their_owner_only(tmp_path: Path) -> None:
    keys = load_keys(tmp_path)
    assert load_keys(tmp_path) == keys
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600


def test_supervisord_takes_words_literally(settings: Settings) -> None:
    parser = configparser.RawConfigParser()
    parser.read_string(render(settings, [Supervised("x", ["run", "100%", "a b"], {"URL": "a,b=c%d"})]))
    assert parser["program:x"]["command"] == '"run" "100%%" "a b"'
    assert 'URL="a,b=c%%d"' in parser["program:x"]["environment"]
    with pytest.raises(Problem):
        render(settings, [Supervised("x", ['quote"'])])


def test_offset_of_a_stack_is_the_one_it_was_launched_with(settings: Settings) -> None:
    supervisor = Supervisor(replace(settings, port_offset=7))
    assert supervisor.port_offset() is None
    supervisor.configuration.write_text(render(settings, []))
    assert supervisor.port_offset() == settings.port_offset


def test_log_lines_that_repeat_are_told_once(settings: Settings) -> None:
    settings.logs.mkdir()
    (settings.logs / "x.log").write_text("12:00 begins\n12:01 port 1 is taken\n12:02 begins\n12:03 port 2 is taken\n")
    assert Supervisor(settings).tail("x").splitlines() == ["12:02 begins", "12:03 port 2 is taken"]


def test_the_collector_is_told_where_the_file_system_of_the_data_is_mounted(tmp_path: Path) -> None:
    assert mount_point(Path("/proc/self/fd")) == "/proc"
    mounted = Path(mount_point(tmp_path))
    assert mounted.is_mount()
    assert (mounted in tmp_path.parents, mounted.stat().st_dev) == (True, tmp_path.stat().st_dev)


DEFAULTS = {f"COLLECTOR_{of}" for of in ("MEMORY_MIB", "COMPRESSION", "QUEUE_POINTS", "QUEUE_LOG_RECORDS", "QUEUE_SPANS")}
DEFAULTS |= {"LOKI_STORE", "LOKI_BUCKET", "POSTGRES_CA"}
"""Right as they are on one machine."""


@pytest.mark.parametrize("name", ["collector", "loki", "jaeger"])
def test_every_variable_of_a_configuration_is_set_natively(settings: Settings, name: str) -> None:
    component = next(c for c in stack_components(settings, load_keys(settings.home)) if c.name == name)
    command = " ".join(component.command)
    text = "".join(path.read_text() for path in (OBSERVABILITY / name).glob("*.yaml") if str(path) in command)
    asked = set(re.findall(r"\$\{(?:env:)?(\w+)(?::-|\})", text)) - DEFAULTS
    assert asked == set(component.environment) - {"OTEL_TRACES_SAMPLER"}  # Jaeger's own tracer reads that


def test_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with (
        only_one(tmp_path / "lock", "waiting", 1),
        pytest.raises(Problem, match="waiting"),
        only_one(tmp_path / "lock", "waiting", 0.1),
    ):
        pass


@pytest.mark.parametrize("pulls", [True, False])
def test_grafanas_image_is_pulled_once(
    pulls: bool, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engine is a script: no image can be had here. It notes each pull, and has the image after one that succeeds."""
    engine, pulled = tmp_path / "bin" / "docker", tmp_path / "pulled"
    engine.parent.mkdir()
    engine.write_text(
        f"#!/bin/sh\ncase $1 in image) test -s {pulled} && {'true' if pulls else 'false'} ;;\n"
        f"pull) echo $3 >> {pulled}; {'true' if pulls else 'false'} ;; esac\n"
    )
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{engine.parent}:/usr/bin:/bin")
    found = [find_grafana(settings, load_keys(settings.home)) for _ in range(3)]
    assert [bool(one and one.command[-1] == IMAGE) for one in found] == [pulls] * 3
    assert pulled.read_text() == f"{IMAGE}\n"
    assert capsys.readouterr().out.count("docker pull") == (not pulls)
