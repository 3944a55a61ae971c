"""Settings whose values are in files, as a container has its secrets."""

from pathlib import Path

import pytest

from gamepulse import settings

GOOD = {"GAMEPULSE_DATABASE_URL": "postgresql://x", "GAMEPULSE_PLAYER_HASH_KEY": "ab" * 32}


def test_a_value_is_read_from_the_file_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("cd" * 32 + "\n")
    named = {"GAMEPULSE_DATABASE_URL": "postgresql://x", "GAMEPULSE_PLAYER_HASH_KEY_FILE": str(tmp_path / "key")}
    assert settings.load(named).player_hash_key == "cd" * 32


@pytest.mark.parametrize("content", ["short", ""])
def test_a_wrong_value_in_a_file_is_refused_as_any_other(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content)
    named = {"GAMEPULSE_DATABASE_URL": "postgresql://x", "GAMEPULSE_PLAYER_HASH_KEY_FILE": str(tmp_path / "key")}
    with pytest.raises(ValueError, match="player_hash_key"):
        settings.load(named)


def test_a_file_that_cannot_be_read_is_named_by_its_variable(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match="GAMEPULSE_PORT_FILE"):
            settings.load(GOOD | {"GAMEPULSE_PORT_FILE": str(path)})


def test_a_value_and_a_file_with_another_are_refused(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("80")
    with pytest.raises(ValueError, match="both set"):
        settings.load(GOOD | {"GAMEPULSE_PORT": "8080", "GAMEPULSE_PORT_FILE": str(tmp_path / "port")})


def test_a_file_of_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1")
    with pytest.raises(ValueError, match="typo"):
        settings.load(GOOD | {"GAMEPULSE_TYPO_FILE": str(tmp_path / "x")})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PLAYER_HASH_KEY", "short", "64 hexadecimal digits"),
        ("ANCESTOR_GAME", "No game", "a game's name: at most 64 of"),
        ("VALKEY_URL", "http://127.0.0.1", "redis://"),
    ],
)
def test_what_a_text_may_be_is_said_in_words(name: str, value: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"Expected .*{said}") as refused:
        settings.load(GOOD | {f"GAMEPULSE_{name}": value})
    assert "regex" not in str(refused.value)
