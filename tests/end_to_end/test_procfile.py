"""The Procfile, run as platforms run it: four variables, and a folder that is gone afterwards."""

import json
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx2
import psutil
import pytest

from local.ports import LOOPBACK, free_ports
from local.server import Command, Server, family
from tests.keys import SECRET_KEY, bearer
from tests.stack import answers, poll, running, settled, stored

ROOT = Path(__file__).parents[2]
PROCFILE = dict(re.findall(r"^(\w+): (.+)$", (ROOT / "Procfile").read_text(), re.MULTILINE))


class Platform:
    """A checkout without a `.env`, and what a platform says to each process."""

    def __init__(self, folder: Path, database_url: str, broker_url: str) -> None:
        self.folder = folder
        self.port = free_ports(1)[0]
        for package in ("api", "worker", "shared", "migrations"):
            (folder / package).symlink_to(ROOT / package)
        self._environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "DATABASE_URL": database_url.replace("postgresql://", "postgres://"),
            "CLOUDAMQP_URL": broker_url,
            "PORT": str(self.port),
            "SECRET_KEY": SECRET_KEY,
            "LOG_LEVEL": "DEBUG",  # so that beat says when it sends a tick
        }

    def command(self, name: str) -> tuple[str, ...]:
        """Return what runs a process of the Procfile."""
        return self.run(PROCFILE[name])

    def run(self, command: str) -> tuple[str, ...]:
        """Return what runs a command of the platform's, in nothing but this environment."""
        environment = [f"{name}={value}" for name, value in self._environment.items()]
        script = f"cd {shlex.quote(str(self.folder))} && {command}"
        return ("env", "-i", *environment, "sh", "-c", script)


class Dyno(Server):
    """One process of the Procfile."""

    def __init__(self, platform: Platform, name: str, sign: str) -> None:
        super().__init__(platform.folder / "logs" / name)
        self._platform = platform
        self._name = name
        self._sign = sign

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._platform.port}"

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def commands(self) -> list[Command]:
        return [Command(self._name, self._platform.command(self._name))]

    def ready(self) -> bool:
        if self._name == "web":
            return answers(f"{self.url}{self._sign}")
        return self._sign in self.log.read_text()

    def listening(self) -> set[tuple[str, int]]:
        """Return where it accepts connections, as (address, port)."""
        return {
            (found.laddr.ip, found.laddr.port)
            for process in family(self.pids()[0])
            for found in process.net_connections("tcp")
            if found.status == psutil.CONN_LISTEN
        }


@pytest.mark.rabbitmq
def test_the_procfile_stores_a_document(
    tmp_path: Path, empty_database_url: str, broker_url: str, processes: ExitStack
) -> None:
    platform = Platform(tmp_path, empty_database_url, broker_url)
    assert set(PROCFILE) == {"release", "web", "worker", "beat"}
    subprocess.run(platform.command("release"), check=True, timeout=60)
    web = Dyno(platform, "web", "/livez")
    worker = Dyno(platform, "worker", " ready.")
    beat = Dyno(platform, "beat", "Sending due task")
    running(processes, web, worker, beat)
    assert web.listening() == {("0.0.0.0", platform.port)}

    client = processes.enter_context(httpx2.Client(base_url=web.url, timeout=15, trust_env=False))
    poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, seconds=15)
    assert client.get("/v1/categories").status_code == 401  # it is reached from everywhere
    first = platform.run("python -m api.keys create first admin --first")
    made = subprocess.run(first, check=True, timeout=60, capture_output=True, text=True)
    client.headers.update(bearer(made.stdout.strip()))
    answer = client.post("/v1/documents", json={"content": "The shuttle reached its orbit."})
    assert answer.status_code == 202, answer.text
    document = stored(client, answer.json()["id"])
    assert document["category"]
    assert settled(client, 1)["stored"] == 1

    lines = [json.loads(line) for line in beat.log.read_text().splitlines() if line[0] == "{"]
    assert {line["program"] for line in lines} == {"beat"}
