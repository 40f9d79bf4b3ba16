"""`make verify-ledger` asks where `make run` has its servers, unless it is told others."""

import os
from pathlib import Path
from typing import Any

import pytest

from local import verify
from local.settings import ROOT

ADDRESSES = {"DATABASE_URL": "postgresql://kept/", "BROKER_URL": "amqp://kept/"}


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What the process has become, in place of becoming it."""
    calls: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    for name in (*ADDRESSES, "BROKER_API_URL"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_it_is_the_command_of_the_apis_image(became: list[Any], tmp_path: Path) -> None:
    verify.keep(tmp_path, ADDRESSES | {"SECRET": "not kept"})
    verify.main()
    ((program, arguments, environment),) = became
    assert Path(program) == ROOT / ".venvs" / "api" / "bin" / "python"
    assert arguments[1:] == ["-m", "api.verify_ledger"]
    assert environment["DATABASE_URL"] == ADDRESSES["DATABASE_URL"]
    assert "SECRET" not in environment
    assert Path.cwd() == ROOT


def test_the_environment_wins(
    became: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify.keep(tmp_path, ADDRESSES)
    monkeypatch.setenv("DATABASE_URL", "postgresql://told/")
    verify.main()
    environment = became[0][2]
    assert environment["DATABASE_URL"] == "postgresql://told/"
    assert environment["BROKER_URL"] == ADDRESSES["BROKER_URL"]


def test_without_a_run_the_settings_alone_say_it(became: list[Any]) -> None:
    verify.main()
    assert "DATABASE_URL" not in became[0][2]


def test_nobody_else_reads_the_addresses(tmp_path: Path) -> None:
    for _ in range(2):
        verify.keep(tmp_path, ADDRESSES)
        assert (tmp_path / verify.ADDRESSES).stat().st_mode & 0o777 == 0o600
