"""The alert rules, tried by Prometheus's own tool; and what the containers' files say together."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.observe.conftest import OBSERVE

RULES = OBSERVE / "rules.yml"
CASES = Path(__file__).parent / "rules.yml"


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.prometheus
def test_the_rules_are_fine(prometheus_executable: Path) -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "rules", str(RULES))


@pytest.mark.prometheus
def test_each_alert_fires_when_it_should_and_not_before(prometheus_executable: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", str(CASES))


def test_each_alert_is_tried_firing_and_silent() -> None:
    tried: dict[bool, set[str]] = {True: set(), False: set()}
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for moment in case["alert_rule_test"]:
            tried[bool(moment.get("exp_alerts"))].add(moment["alertname"])
    names = {rule["alert"] for rule in alerts()}
    assert tried == {True: names, False: names}


@pytest.mark.prometheus
def test_the_containers_configuration_is_fine(prometheus_executable: Path, tmp_path: Path) -> None:
    """With the path prefix as start.sh fills it in."""
    text = (OBSERVE / "prometheus.yml").read_text()
    text = text.replace("/etc/prometheus/rules.yml", str(RULES))
    assert text.count("ROOT_PATH") == 2  # once in the comment
    file = tmp_path / "prometheus.yml"
    file.write_text(text.replace("ROOT_PATH", "/postroom"))
    promtool("check", "config", str(file))


def test_prometheus_asks_who_is_there_on_the_ports_that_they_are_told() -> None:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    jobs: dict[str, Any] = {
        job["job_name"]: job
        for job in yaml.safe_load((OBSERVE / "prometheus.yml").read_text())["scrape_configs"]
    }
    (workers,) = jobs["worker"]["dns_sd_configs"]
    telling = {
        name
        for name, service in services.items()
        if service.get("environment", {}).get("WORKER_METRICS_PORT") == workers["port"]
    }
    assert set(workers["names"]) == telling == {"worker", "maintenance"}
    (api,) = jobs["api"]["dns_sd_configs"]
    assert (api["names"], api["port"]) == (["api"], 8000)
    assert (
        f"--port={jobs['flower']['static_configs'][0]['targets'][0].partition(':')[2]}"
        in (services["flower"]["command"])
    )
    reached = set(services["prometheus"]["networks"])
    for name in ("api", "flower", "rabbitmq", *telling):
        assert reached & set(services[name]["networks"]), name
