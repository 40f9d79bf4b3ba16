"""What a container may do, what an image holds, and who can see the passwords."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.compose.project import PASSWORDS, ROOT, SERVICES, Project, environment

# Which passwords can be read in the environment of a container by whoever may use Docker. They
# could come as files; `.env` beside them, which the same people can read, would hold them still.
SEEN = {
    "nginx": set(),
    "api": {"POSTGRES_PASSWORD", "RABBITMQ_PASSWORD", "SECRET_KEY"},
    "migrate": {"POSTGRES_PASSWORD"},
    "worker": {"POSTGRES_PASSWORD", "RABBITMQ_PASSWORD"},
    "maintenance": {"POSTGRES_PASSWORD", "RABBITMQ_PASSWORD"},
    "beat": {"POSTGRES_PASSWORD", "RABBITMQ_PASSWORD"},
    "flower": {"POSTGRES_PASSWORD", "RABBITMQ_PASSWORD", "FLOWER_PASSWORD"},
    "db": {"POSTGRES_PASSWORD"},
    "rabbitmq": {"RABBITMQ_PASSWORD"},
}


@pytest.mark.parametrize("service", [*SERVICES, "migrate"])
def test_a_container_may_do_nothing_that_it_need_not(stack: Project, service: str) -> None:
    for container in stack.containers(service):
        user, host = container["Config"]["User"], container["HostConfig"]
        assert int(user.partition(":")[0]) > 0
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert not host["CapAdd"]
        assert not host["Privileged"]
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert host["Memory"] > 0
        assert host["PidsLimit"] > 0


@pytest.mark.parametrize("service", SERVICES)
def test_no_process_is_root_or_has_a_capability(stack: Project, service: str) -> None:
    statuses = stack.execute(service, "sh", "-c", "cat /proc/[0-9]*/status 2> /dev/null || true")
    users = re.findall(r"^Uid:\t(\d+)\t(\d+)\t(\d+)\t(\d+)$", statuses, re.MULTILINE)
    capabilities = re.findall(r"^Cap(?:Prm|Eff|Bnd):\t(\w+)$", statuses, re.MULTILINE)
    assert users
    assert all(int(number) > 0 for each in users for number in each)
    assert {int(each, 16) for each in capabilities} == {0}


@pytest.mark.parametrize("service", SERVICES)
def test_nobody_can_write_to_the_root_file_system(stack: Project, service: str) -> None:
    mounts = stack.execute(service, "cat", "/proc/mounts").splitlines()
    (root,) = (line.split()[3] for line in mounts if line.split()[1] == "/")
    assert "ro" in root.split(",")


def test_nginx_alone_can_be_reached_and_from_this_host_only(stack: Project) -> None:
    published = {
        service: [
            address
            for container in stack.containers(service)
            for addresses in (container["HostConfig"]["PortBindings"] or {}).values()
            for address in addresses
        ]
        for service in SERVICES
    }
    (nginx,) = published.pop("nginx")
    assert nginx == {"HostIp": "127.0.0.1", "HostPort": stack.values["HTTP_PORT"]}
    assert not any(published.values())


@pytest.mark.parametrize(
    ("service", "present", "absent"),
    [
        ("api", ["fastapi", "sqlalchemy", "alembic"], ["sklearn", "numpy", "scipy", "joblib"]),
        ("worker", ["sklearn", "celery", "flower"], ["fastapi", "starlette", "uvicorn", "api"]),
    ],
)
def test_an_image_has_what_it_needs_and_no_more(
    stack: Project, service: str, present: list[str], absent: list[str]
) -> None:
    ask = "import importlib.util as u, sys; print(*(n for n in sys.argv[1:] if u.find_spec(n)))"
    found = stack.execute(service, "python", "-c", ask, *present, *absent)
    assert found.split() == present
    compilers = "command -v cc gcc g++ clang make || echo none"
    assert stack.execute(service, "sh", "-c", compilers).strip() == "none"


@pytest.mark.parametrize("service", [*SERVICES, "migrate"])
def test_passwords_are_seen_only_where_they_are_needed(stack: Project, service: str) -> None:
    for container in stack.containers(service):
        environment = json.dumps(container["Config"].pop("Env"))
        for name in PASSWORDS:
            password = stack.values[name]
            assert (password in environment) == (name in SEEN[service]), name
            # Neither in commands, health checks, labels nor the images' layers.
            assert password not in json.dumps(container), name


@pytest.mark.parametrize("service", SERVICES)
def test_no_command_line_holds_a_password(stack: Project, service: str) -> None:
    """All users of the host can read command lines."""
    lines = stack.execute(service, "sh", "-c", "cat /proc/[0-9]*/cmdline 2> /dev/null || true")
    assert not [name for name in PASSWORDS if stack.values[name] in lines]


def test_without_settings_nothing_starts_and_it_is_said_what_to_do(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    done = subprocess.run(
        ["docker", "compose", "--project-name=postroom-refused", "up", "--detach"],
        cwd=tmp_path,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert 'run "make env" first' in done.stderr
