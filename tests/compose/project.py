"""Postroom in containers, as a Compose project that has nothing in common with any other."""

import ipaddress
import json
import os
import random
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2
from dotenv import dotenv_values

from local.ports import LOOPBACK, free_ports
from tests.keys import bearer

ROOT = Path(__file__).parents[2]
SERVICES = ("nginx", "api", "worker", "maintenance", "beat", "flower", "db", "rabbitmq")
PASSWORDS = (
    "POSTGRES_PASSWORD",
    "RABBITMQ_PASSWORD",
    "FLOWER_PASSWORD",
    "SECRET_KEY",
    "GRAFANA_PASSWORD",
)

# Whatever else is set where the tests run could be a setting of the containers.
_KEPT = ("PATH", "HOME", "XDG_RUNTIME_DIR", "DOCKER_", "BUILDKIT_")


def docker(*arguments: str, seconds: float = 60, **variables: str) -> str:
    """Run `docker` and return what it says.

    Raises:
        AssertionError: it failed, or took longer than `seconds`; the text has what it said.
    """
    try:
        done = subprocess.run(
            ["docker", *arguments],
            cwd=ROOT,
            env=environment(variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AssertionError(f"not within {seconds} s: docker {' '.join(arguments)}") from None
    assert done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return `variables`, and of ours what `docker` itself needs."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}
    return {**kept, **variables}


@dataclass(frozen=True)
class Project:
    """One Compose project; `dataclasses.replace` gives the same one with other settings.

    Attributes:
        name: of the project, and the first part of its containers' and images' names.
        env_file: its settings and passwords.
        files: Compose files beside docker-compose.yml.
        settings: win over those of `env_file`.
    """

    name: str
    env_file: Path
    files: tuple[Path, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path) -> "Project":
        """Write the settings of a new project into `folder`, passwords as `make env` does."""
        (folder / "docker").mkdir()
        shutil.copy(ROOT / "docker" / "env.sh", folder / "docker")
        subprocess.run([folder / "docker" / "env.sh"], check=True, stdout=subprocess.DEVNULL)
        env_file = folder / ".env"
        with env_file.open("a") as file:
            file.write(f"HTTP_PORT={free_ports(1)[0]}\nEDGE_SUBNET={_free_subnet()}\n")
        return cls(f"postroom-test-{os.getpid()}", env_file)

    def compose(self, *arguments: str, seconds: float = 180) -> str:
        """Run `docker compose` on this project and return what it says."""
        files = [f"--file={file}" for file in (ROOT / "docker-compose.yml", *self.files)]
        own = [f"--env-file={self.env_file}", f"--project-name={self.name}", *files]
        return docker("compose", *own, *arguments, seconds=seconds, **self.settings)

    def up(self, *arguments: str) -> None:
        """Bring all services to these settings, and wait until they are healthy."""
        self.compose("up", "--detach", "--wait", "--wait-timeout=150", *arguments)

    def remove(self) -> None:
        """Remove all that there is of it: containers, networks, volumes, images."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout=10")
        docker("image", "rm", "--force", f"{self.name}-api", f"{self.name}-worker")

    def containers(self, service: str) -> list[dict[str, Any]]:
        """Return what `docker inspect` says of each container of `service`, also of ended ones."""
        ids = self.compose("ps", "--all", "--quiet", service).split()
        found: list[dict[str, Any]] = json.loads(docker("inspect", *ids))
        return found

    def execute(self, service: str, *command: str) -> str:
        """Run `command` in the first container of `service`, as that container's user."""
        return self.compose("exec", "-T", service, *command)

    def sql(self, statement: str, database: str = "postroom") -> str:
        """Return what psql prints of the statement's rows."""
        psql = (
            "psql",
            "--username=postroom",
            f"--dbname={database}",
            "--tuples-only",
            "--no-align",
        )
        return self.execute("db", *psql, f"--command={statement}").strip()

    @cached_property
    def values(self) -> dict[str, str]:
        """The settings of `env_file`."""
        return {name: value or "" for name, value in dotenv_values(self.env_file).items()}

    @property
    def url(self) -> str:
        """Where nginx listens."""
        return f"http://{LOOPBACK}:{self.values['HTTP_PORT']}"

    def client(self) -> httpx2.Client:
        """Return a client of nginx that waits longer than nginx does."""
        headers = bearer(self.key)
        return httpx2.Client(base_url=self.url, timeout=70, trust_env=False, headers=headers)

    @cached_property
    def key(self) -> str:
        """A key for everything, made where `make up` makes the first one."""
        return self.execute("api", "python", "-m", "api.keys", "create", "tests", "admin").strip()


def _free_subnet() -> str:
    """Return a network that no Docker network overlaps, seldom the same one twice."""
    networks = docker("network", "ls", "--quiet").split()
    template = "{{range .IPAM.Config}}{{.Subnet}} {{end}}"
    taken = [
        ipaddress.ip_network(subnet)
        for subnet in docker("network", "inspect", f"--format={template}", *networks).split()
    ]
    for number in random.sample(range(256), 256):
        subnet = ipaddress.ip_network(f"10.84.{number}.0/24")
        if not any(each.version == 4 and subnet.overlaps(each) for each in taken):
            return str(subnet)
    raise AssertionError("no free network left in 10.84.0.0/16")
