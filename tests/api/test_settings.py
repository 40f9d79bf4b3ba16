"""Settings of the API: read once, and wrong ones named without their values."""

from pathlib import Path
from secrets import token_hex, token_urlsafe

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
        ("SLOW_CLIENT_SECONDS", "0"),
        ("CORS_ORIGINS", "*"),
        ("CORS_ORIGINS", "null"),
        ("CORS_ORIGINS", "https://hidden.example/"),
        ("CORS_ORIGINS", "https://a.example,hidden.example"),
        ("CORS_ORIGINS", "https://a.example,"),
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


def test_origins_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(ApiSettings).cors_origins == ""
    origins = "https://a.example,http://localhost:3000,http://[::1]:3000"
    monkeypatch.setenv("CORS_ORIGINS", origins.replace(",", " , "))
    assert load(ApiSettings).cors_origins == origins


# --- Secrets, and whose tokens are taken ----------------------------------------------------------

HEX = "3f1c9a5be07d42688c1e5a90b7d3f264"  # as `make env` makes them


def test_a_secret_is_needed_where_callers_need_a_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load(ApiSettings).secret_key.get_secret_value() == ""
    for name, value in (("AUTH", "on"), ("API_HOST", "0.0.0.0")):  # listens nowhere
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(SystemExit, match=r"^[^;\n]*: SECRET_KEY: is needed .*hex 32$"):
                load(ApiSettings)
            (tmp_path / "secret").write_text(f"{HEX}\n")
            patch.setenv("SECRET_KEY_FILE", "secret")
            settings = load(ApiSettings)
            assert settings.secret_key.get_secret_value() == HEX
            assert HEX not in repr(settings)


@pytest.mark.parametrize("name", ["SECRET_KEY", "SECRET_KEY_OLD"])
@pytest.mark.parametrize(
    "value",
    [
        "hidden",
        HEX[:31],
        "x" * 64,
        "abababab" * 8,
        "3f1c9a5be0" * 4,
        "0123456789" * 4,
        "changeme-7d42688c1e5a90b7d3f264-7d42688c",
        "Change-Me_7d42688c1e5a90b7d3f264-7d42688c",
        "my-very-own-secret-that-nobody-will-ever-guess",
        "123456789abcdefghijklmnopqrstuvwxyz",
        " " * 40,
    ],
)
def test_a_secret_that_can_be_guessed_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("AUTH", "on")
    monkeypatch.setenv("SECRET_KEY", HEX)
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        load(ApiSettings)
    line = str(caught.value)
    assert line.startswith(f"postroom: wrong settings: {name}: must ")
    assert line.endswith("openssl rand -hex 32")
    assert "\n" not in line
    assert value not in line


def test_whatever_is_random_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH", "on")
    for _ in range(200):
        for value in (token_hex(16), token_hex(32), token_urlsafe(32), token_urlsafe(64)):
            monkeypatch.setenv("SECRET_KEY", value)
            assert load(ApiSettings).secret_key.get_secret_value() == value


OIDC = {
    "OIDC_ISSUER": "https://login.example.org/",
    "OIDC_AUDIENCE": "postroom",
    "OIDC_JWKS_URL": "http://127.0.0.1:8080/keys",
}


def test_an_outside_issuer_is_named_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OIDC.items():
        monkeypatch.setenv(name, value)
    assert load(ApiSettings).oidc_issuer == OIDC["OIDC_ISSUER"]
    for name in OIDC:
        with monkeypatch.context() as patch:
            patch.delenv(name)
            with pytest.raises(SystemExit, match="all or none of OIDC_ISSUER, OIDC_AUDIENCE, OIDC"):
                load(ApiSettings)


@pytest.mark.parametrize("name", ["OIDC_ISSUER", "OIDC_JWKS_URL"])
@pytest.mark.parametrize(
    "value",
    [
        "login.example.org",
        "http://login.example.org/keys",
        "http://127.0.0.1.example.org/",
        "http://127.0.0.1@example.org/",
        "http://[",
        "file:///etc/passwd",
        "ftp://127.0.0.1/keys",
    ],
)
def test_an_issuer_that_anybody_could_stand_in_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for each, fine in (OIDC | {name: value}).items():
        monkeypatch.setenv(each, fine)
    with pytest.raises(SystemExit, match=f"{name}: must start with https://"):
        load(ApiSettings)


def test_all_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RIGHT:
        monkeypatch.delenv(name)
    with pytest.raises(SystemExit, match=r"DATABASE_URL: .*; BROKER_URL: "):
        load(ApiSettings)
