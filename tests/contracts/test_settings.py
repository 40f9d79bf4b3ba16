"""Every setting is in `.env.example` and in the README, and nothing else is."""

import dataclasses
import re
from pathlib import Path

import pytest

import local.settings
from api.settings import ApiSettings
from shared.settings import Alias
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
LOCAL = {field.name.upper() for field in dataclasses.fields(local.settings.Settings)}
SETTINGS = LOCAL | {
    name.upper() for settings in (ApiSettings, WorkerSettings) for name in settings.model_fields
}
# Read by what `make run` starts or calls, through no settings class.
OTHERS = {"NO_INSTALL", "COMPOSE_PROFILES"} | {
    # and by docker compose
    name
    for file in ("docker-compose.yml", "docker/compose.tls.yml")
    for name in re.findall(r"(?<!\$)\$\{([A-Z_]+)", (ROOT / file).read_text())
    if name not in {"COMPOSE_PROJECT_NAME"} | SETTINGS
}
ALIASES = {
    each.name
    for settings in (ApiSettings, WorkerSettings)
    for field in settings.model_fields.values()
    for each in field.metadata
    if isinstance(each, Alias)
}


def examples() -> dict[str, str]:
    """Return the settings of `.env.example`, commented out or not, with their values."""
    text = (ROOT / ".env.example").read_text()
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]+)=(.*)$", text, re.MULTILINE))


def test_the_example_has_every_setting_and_no_other() -> None:
    assert set(examples()) == SETTINGS | OTHERS


@pytest.mark.parametrize("name", sorted(SETTINGS | OTHERS))
def test_the_readme_explains_every_setting(name: str) -> None:
    assert re.search(rf"\b{name}\b", (ROOT / "README.md").read_text())


def test_platforms_names_are_explained() -> None:
    assert {"CLOUDAMQP_URL", "PORT"} == ALIASES
    for file in (".env.example", "README.md"):
        for name in (*ALIASES, "NAME_FILE"):
            assert re.search(rf"\b{name}\b", (ROOT / file).read_text()), (file, name)


@pytest.mark.parametrize("settings", [ApiSettings, WorkerSettings])
def test_the_examples_are_the_defaults(
    settings: type[ApiSettings] | type[WorkerSettings], tmp_path: Path
) -> None:
    given = examples()
    for name, field in settings.model_fields.items():
        if field.is_required() or field.default_factory is not None or name == "model_dir":
            continue
        assert given[name.upper()] == str(field.default)


def test_the_example_is_accepted_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in examples().items():
        monkeypatch.setenv(name, value)
    (tmp_path / "worker").symlink_to(ROOT / "worker")  # the example's MODEL_DIR is relative
    monkeypatch.chdir(tmp_path)
    assert ApiSettings().api_port == 8000
    assert WorkerSettings().worker_name == "worker"
    assert local.settings.load().api_port == 8000
