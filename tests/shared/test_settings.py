from pathlib import Path

import pytest

from shared.settings import DatabaseSettings, SharedSettings, load

DATABASE_URL = "postgresql://user:secret@localhost/postroom"
BROKER_URL = "amqp://user:secret@localhost//"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Only what a test sets, and no `.env`."""
    for name in (*SharedSettings.model_fields, "cloudamqp_url"):
        for suffix in ("", "_FILE"):
            monkeypatch.delenv(f"{name.upper()}{suffix}", raising=False)
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
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "secret:4318"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=b,=secret"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
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


# --- NAME_FILE -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
@pytest.mark.parametrize("in_env_file", [False, True])
def test_a_setting_may_be_the_content_of_a_file(
    environment: pytest.MonkeyPatch, tmp_path: Path, ending: str, in_env_file: bool
) -> None:
    (tmp_path / "url").write_bytes(f"postgres://u:secret@h/d{ending}".encode())
    (tmp_path / "level").write_bytes(f"ERROR{ending}".encode())
    given = {"DATABASE_URL_FILE": str(tmp_path / "url"), "LOG_LEVEL_FILE": "level"}
    environment.delenv("DATABASE_URL")
    if in_env_file:
        Path(".env").write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    else:
        for name, value in given.items():
            environment.setenv(name, value)
    settings = load(SharedSettings)
    url = settings.database_url.get_secret_value()
    assert url == "postgresql+psycopg2://u:secret@h/d"
    assert settings.log_level == "ERROR"


@pytest.mark.parametrize("name", [each.upper() for each in SharedSettings.model_fields])
@pytest.mark.parametrize("content", ["secret", "", "secret\n5"])
def test_what_a_file_holds_is_validated_under_the_settings_name(
    environment: pytest.MonkeyPatch, tmp_path: Path, name: str, content: str
) -> None:
    environment.delenv(name, raising=False)
    (tmp_path / "file").write_text(content)
    environment.setenv(f"{name}_FILE", str(tmp_path / "file"))
    assert f" {name}: " in refusal()


@pytest.mark.parametrize("in_env_file", [False, True])
def test_a_value_and_a_file_are_refused(
    environment: pytest.MonkeyPatch, tmp_path: Path, in_env_file: bool
) -> None:
    (tmp_path / "url").write_text(BROKER_URL)
    if in_env_file:
        environment.delenv("BROKER_URL")
        Path(".env").write_text(f"BROKER_URL={BROKER_URL}\nBROKER_URL_FILE=url\n")
    else:
        environment.setenv("BROKER_URL_FILE", "url")
    assert "BROKER_URL: BROKER_URL_FILE is set as well" in refusal()


def test_the_environment_wins_also_over_the_other_kind(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A program that is handed a value is not stopped by a file that somebody named in `.env`."""
    (tmp_path / "five").write_text("5")
    Path(".env").write_text("TOMBSTONE_DAYS_FILE=five\nDB_POOL_SIZE=6\n")
    environment.setenv("TOMBSTONE_DAYS", "7")
    environment.setenv("DB_POOL_SIZE_FILE", "five")
    settings = load(SharedSettings)
    assert (settings.tombstone_days, settings.db_pool_size) == (7, 5)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("amqp://user:secret@host/", "No such file or directory"),  # a URL where a path belongs
        (".", "Is a directory"),
        ("latin", "the file is no UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_without_its_path(
    environment: pytest.MonkeyPatch, tmp_path: Path, path: str, reason: str
) -> None:
    (tmp_path / "latin").write_bytes("secr\xe9t".encode("latin-1"))
    environment.delenv("BROKER_URL")
    environment.setenv("BROKER_URL_FILE", path)
    message = refusal()
    assert "BROKER_URL_FILE: " in message
    assert message.endswith(reason)


# --- Names of platforms --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "_FILE"])
def test_cloudamqp_url_is_the_broker_where_no_other_is_named(
    environment: pytest.MonkeyPatch, tmp_path: Path, suffix: str
) -> None:
    url = "amqps://user:secret@cloud/vhost"
    (tmp_path / "url").write_text(f"{url}\n")
    environment.setenv(f"CLOUDAMQP_URL{suffix}", "url" if suffix else url)
    assert load(SharedSettings).broker_url.get_secret_value() == BROKER_URL
    environment.delenv("BROKER_URL")
    assert load(SharedSettings).broker_url.get_secret_value() == url
    Path(".env").write_text(f"BROKER_URL={BROKER_URL}\n")
    assert load(SharedSettings).broker_url.get_secret_value() == BROKER_URL
