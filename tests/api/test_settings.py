"""Settings of the API: read once, and wrong ones named without their values."""

from pathlib import Path

import pytest

from api.settings import ApiSettings
from shared.settings import load

RIGHT = {"DATABASE_URL": "postgres://user:hidden@host/db", "BROKER_URL": "amqp://user:hidden@host/"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing but what each test sets: no `.env` of the folder, no variable of ours."""
    monkeypatch.chdir(tmp_path)
    for name in (*ApiSettings.model_fields, "port"):
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in RIGHT.items():
        monkeypatch.setenv(name, value)


def test_defaults() -> None:
    settings = load(ApiSettings)
    assert (settings.api_host, settings.api_port, settings.root_path) == ("127.0.0.1", 8000, "")
    assert settings.max_content_bytes == 1 << 20
    assert settings.database_url.get_secret_value() == "postgresql+psycopg2://user:hidden@host/db"
    assert "hidden" not in repr(settings)


def test_the_file_is_read_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("API_PORT=1\nROOT_PATH=/post/room\n")
    monkeypatch.setenv("API_PORT", "2")
    settings = load(ApiSettings)
    assert (settings.api_port, settings.root_path) == (2, "/post/room")


def test_port_is_the_platforms_name_and_ours_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "5000")
    settings = load(ApiSettings)
    assert (settings.api_port, settings.api_host) == (5000, "127.0.0.1")
    monkeypatch.setenv("API_PORT", "8001")
    assert load(ApiSettings).api_port == 8001


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_PORT", "0"),
        ("API_PORT", "65536"),
        ("API_PORT", "hidden"),
        ("ROOT_PATH", "post"),
        ("ROOT_PATH", "/post/"),
        ("MAX_CONTENT_BYTES", "0"),
        ("MAX_CONTENT_BYTES", str((8 << 20) + 1)),
        ("LOG_LEVEL", "hidden"),
        ("DATABASE_URL", "mysql://user:hidden@host/db"),
        ("BROKER_URL", "redis://user:hidden@host"),
    ],
)
def test_a_wrong_value_is_named_but_not_told(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        load(ApiSettings)
    line = str(caught.value)
    assert line.startswith(f"postroom: wrong settings: {name}: ")
    assert "\n" not in line
    assert "hidden" not in line


def test_all_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RIGHT:
        monkeypatch.delenv(name)
    with pytest.raises(SystemExit, match=r"DATABASE_URL: .*; BROKER_URL: "):
        load(ApiSettings)
