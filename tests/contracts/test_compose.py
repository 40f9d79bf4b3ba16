"""docker-compose.yml and the files beside it keep to what the rest of Postroom says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.middleware import FOR_DATA, FOR_PAGES
from api.settings import ApiSettings
from shared.queue import QUEUES
from shared.settings import DatabaseSettings
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
FILES = (ROOT / "docker-compose.yml", ROOT / "docker" / "compose.tls.yml")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILES[0].read_text())["services"]
ONE_SHOT = {"migrate"}
READ_BY: dict[str, type[DatabaseSettings]] = {
    "api": ApiSettings,
    "migrate": DatabaseSettings,
    "worker": WorkerSettings,
    "maintenance": WorkerSettings,
    "beat": WorkerSettings,
    "flower": WorkerSettings,
}
FLOWERS_OWN = {"FLOWER_BASIC_AUTH", "FLOWER_BROKER_API"}


def test_the_broker_starts_with_the_queues_that_the_programs_declare() -> None:
    """A queue that is there with other arguments refuses whoever declares it."""
    definitions = json.loads((ROOT / "docker" / "rabbitmq" / "definitions.json").read_text())
    defined = {each.pop("name"): each for each in definitions.pop("queues")}
    assert not definitions
    assert defined == {
        name: {
            "vhost": "/",
            "durable": queue.durable,
            "auto_delete": queue.auto_delete,
            "arguments": queue.queue_arguments,
        }
        for name, queue in QUEUES.items()
    }


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_service_is_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - ONE_SHOT))
def test_each_service_that_stays_says_whether_it_is_healthy(name: str) -> None:
    service = SERVICES[name]
    if "healthcheck" in service:
        assert service["healthcheck"]["test"]
    else:
        image = service["image"].rpartition("-")[2]
        assert "\nHEALTHCHECK " in (ROOT / "docker" / f"{image}.Dockerfile").read_text()


def test_each_image_is_built_by_one_service() -> None:
    built = [service["build"]["dockerfile"] for service in SERVICES.values() if "build" in service]
    assert sorted(built) == ["docker/api.Dockerfile", "docker/worker.Dockerfile"]


def test_only_nginx_publishes_ports_and_on_this_host_unless_told_otherwise() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"nginx"}
    assert all(port.startswith("${HTTP_BIND:-127.0.0.1}:") for port in published["nginx"])


@pytest.mark.parametrize("name", sorted(READ_BY))
def test_each_setting_that_is_passed_is_read(name: str) -> None:
    given = set(SERVICES[name]["environment"]) - (FLOWERS_OWN if name == "flower" else set())
    assert given
    assert given <= {each.upper() for each in READ_BY[name].model_fields}


def test_the_examples_are_the_defaults() -> None:
    example = (ROOT / ".env.example").read_text()
    defaults = {
        default
        for file in FILES
        for default in re.findall(r"(?<!\$)\$\{(\w+):-([^}]*)\}", file.read_text())
    }
    assert ("HTTP_PORT", "8080") in defaults
    for name, value in defaults:
        assert f"\n#{name}={value}\n" in example, name


def test_nginx_says_to_browsers_what_the_api_says() -> None:
    """It takes the API's words away, and says its own for all that is behind it."""
    text = (ROOT / "nginx.conf").read_text()
    said = dict(re.findall(r"add_header (\S+) (\S+) always;", text))
    policies = re.findall(r'"(default-src [^"]+)"', text)
    hidden = set(re.findall(r"proxy_hide_header (\S+);", text))
    for name, value in ((name.decode().title(), value.decode()) for name, value in FOR_DATA):
        assert name in hidden
        assert value in policies if name == "Content-Security-Policy" else said[name] == value
    assert dict(FOR_PAGES)[b"content-security-policy"].decode() in policies


def test_nginx_is_given_every_setting_of_its_template() -> None:
    templates = (ROOT / "nginx.conf", ROOT / "docker" / "nginx" / "tls.conf")
    used = {name for file in templates for name in re.findall(r"\$\{([A-Z_]+)\}", file.read_text())}
    environment = SERVICES["nginx"]["environment"]
    (names,) = re.findall(r"\^\((.+)\)\$", environment["NGINX_ENVSUBST_FILTER"])
    assert used == set(names.split("|"))
    over: dict[str, Any] = yaml.safe_load(FILES[1].read_text())["services"]["nginx"]["environment"]
    assert used <= environment.keys() | over.keys()
