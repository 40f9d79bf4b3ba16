from pathlib import Path

import pytest

from shared.settings import DatabaseSettings, SharedSettings, load

DATABASE_URL = "postgresql://user:secret@localhost/postroom"
BROKER_URL = "amqp://user:secret@localhost//"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Only what a test sets, and no `.env`."""
    for name in SharedSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("DATABASE_URL", DATABASE_URL)
    monkeypatch.setenv("BROKER_URL", BROKER_URL)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def refusal(settings: type[DatabaseSettings] = SharedSettings) -> str:
    with pytest.raises(SystemExit) as refused:
        load(settings)
    message = str(refused.value.code)
    assert message.startswith("postroom: wrong settings: ")
    assert "\n" not in message
    assert "secret" not in message
    return message


def test_defaults() -> None:
    settings = load(SharedSettings)
    assert settings.broker_url.get_secret_value() == BROKER_URL
    assert (settings.db_pool_size, settings.tombstone_days) == (8, 30)
    assert settings.log_level == "INFO"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_usual_scheme_means_psycopg2(environment: pytest.MonkeyPatch, scheme: str) -> None:
    environment.setenv("DATABASE_URL", f"{scheme}://u:p@h:1/d?sslmode=require")
    url = load(DatabaseSettings).database_url.get_secret_value()
    assert url == "postgresql+psycopg2://u:p@h:1/d?sslmode=require"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://user:secret@localhost/x"),
        ("DATABASE_URL", "postgresql:/secret"),
        ("DATABASE_URL", "secret"),
        ("DATABASE_URL", "postgresql://[::secret"),
        ("DATABASE_URL", "postgresql://host:secret/database"),
        ("BROKER_URL", "redis://:secret@localhost"),
        ("BROKER_URL", "amqp://"),
        ("BROKER_URL", "secret"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_LEVEL", "debug"),
        ("DB_POOL_SIZE", "0"),
        ("DB_POOL_SIZE", "many"),
        ("DB_POOL_SIZE", "1.5"),
        ("TOMBSTONE_DAYS", "-1"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line_without_its_value(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(name, value)
    assert f"{name}: " in refusal()


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_setting_is_named(environment: pytest.MonkeyPatch, value: str | None) -> None:
    environment.delenv("BROKER_URL")
    if value is not None:
        environment.setenv("BROKER_URL", value)
    assert "BROKER_URL: Field required" in refusal()


def test_all_that_is_wrong_is_said_at_once(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "x")
    environment.setenv("DB_POOL_SIZE", "x")
    message = refusal()
    assert "DATABASE_URL" in message
    assert "DB_POOL_SIZE" in message


def test_the_environment_wins_over_the_file(environment: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("TOMBSTONE_DAYS=5\nDB_POOL_SIZE=5\nSOMEBODY_ELSES=1\n")
    environment.setenv("TOMBSTONE_DAYS", "7")
    settings = load(SharedSettings)
    assert (settings.tombstone_days, settings.db_pool_size) == (7, 5)


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(load(SharedSettings))
