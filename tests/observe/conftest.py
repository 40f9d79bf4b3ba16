"""A real Prometheus, as the containers configure it."""

import shutil
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from local.install import advice, find_prometheus
from local.ports import LOOPBACK, free_ports
from local.server import Command, Server
from tests.conftest import ROOT
from tests.stack import answers

OBSERVE = ROOT / "docker" / "observe"


class Prometheus(Server):
    """Asks programs of this machine every second; its rules are the shipped ones."""

    def __init__(self, folder: Path, executable: Path, targets: dict[str, str]) -> None:
        super().__init__(folder)
        self._executable = str(executable)
        self._targets = targets
        self._port = free_ports(1)[0]

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._port}"

    def prepare(self) -> None:
        self.folder.mkdir(parents=True)
        shutil.copy(OBSERVE / "rules.yml", self.folder)
        jobs = [
            {"job_name": job, "static_configs": [{"targets": [target], "labels": {"service": job}}]}
            for job, target in self._targets.items()
        ]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": jobs,
        }
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def commands(self) -> list[Command]:
        options = (
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={LOOPBACK}:{self._port}",
        )
        return [Command("prometheus", (self._executable, *options))]

    def ready(self) -> bool:
        return answers(f"{self.url}/-/ready")

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data that its HTTP API answers with."""
        url = f"{self.url}/api/v1/{path}"
        response = httpx2.get(url, params=parameters, timeout=10, trust_env=False)
        body = response.json()
        assert body["status"] == "success", body
        return body["data"]

    def value(self, query: str) -> list[float]:
        """Return the values of a query's series."""
        return [float(each["value"][1]) for each in self.ask("query", query=query)["result"]]


@pytest.fixture(scope="session")
def prometheus_executable() -> Path:
    """The installed Prometheus, which `promtool` comes along with."""
    found = find_prometheus()
    if not found:
        pytest.skip(f"there is no Prometheus; to get it: {advice('prometheus')}")
    return found
