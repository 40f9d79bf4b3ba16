"""Install what pip cannot: ``python -m local.install rabbitmq chromium prometheus``.

Debian's packages, when missing, for root on Debian and its kin, unless ``NO_INSTALL=1``. What could
not be installed is said with the one command that would; the exit status is 0 all the same.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local.rabbitmq import find_rabbitmq

POLICY = Path("/usr/sbin/policy-rc.d")


def find_chromium() -> Path | None:
    """Return the installed browser that the tests of the web pages drive."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return Path(found)
    return None


def find_prometheus() -> Path | None:
    """Return the installed Prometheus that the tests of dashboards and alerts start."""
    found = shutil.which("promtool") and shutil.which("prometheus")
    return Path(found) if found else None


@dataclass(frozen=True)
class Program:
    """Something to install: how to find it, what it is called where, and what lacks without it."""

    title: str
    find: Callable[[], Path | None]
    packages: dict[str, str]
    without: str


PROGRAMS = {
    "rabbitmq": Program(
        "RabbitMQ",
        find_rabbitmq,
        dict.fromkeys(("apt-get", "dnf", "zypper"), "rabbitmq-server")
        | {"brew": "rabbitmq", "pacman": "rabbitmq"},
        "the tests that need it are skipped",
    ),
    "chromium": Program(
        "Chromium",
        find_chromium,
        # The driver of the tests brings a Node.js that needs libatomic.
        dict.fromkeys(("dnf", "zypper", "pacman", "brew"), "chromium")
        | {"apt-get": "chromium libatomic1"},
        "the tests that need it are skipped",
    ),
    "prometheus": Program(
        "Prometheus",
        find_prometheus,
        dict.fromkeys(("apt-get", "pacman", "brew"), "prometheus")
        | dict.fromkeys(("dnf", "zypper"), "golang-github-prometheus"),
        "the tests that need it are skipped",
    ),
}
INSTALLERS = {
    "brew": "brew install",
    "apt-get": "sudo apt-get install",
    "dnf": "sudo dnf install",
    "zypper": "sudo zypper install",
    "pacman": "sudo pacman -S",
}


def advice(name: str) -> str:
    """Return the one command that installs ``name`` on this machine."""
    program = PROGRAMS[name]
    for tool, command in INSTALLERS.items():
        if shutil.which(tool):
            return f"{command} {program.packages[tool]}"
    return f"install {program.title} with your system's package manager"


def install(name: str) -> str | None:
    """See to it that ``name`` is installed; return why it is not, None when it is.

    Prints a line before it installs anything.
    """
    program = PROGRAMS[name]
    if program.find():
        return None
    if reason := _hindrance():
        return reason
    package = program.packages["apt-get"]
    print(f"postroom: installing from Debian's packages: {package} ({program.title})", flush=True)
    error = _apt_install(package)
    return None if program.find() else error or "installed, but not found"


def _hindrance() -> str | None:
    if os.environ.get("NO_INSTALL") == "1":
        return "NO_INSTALL=1"
    if not shutil.which("apt-get"):
        return "this system has no apt-get"
    return "only root can install packages" if os.geteuid() else None


def _apt_install(packages: str) -> str | None:
    """Install packages without starting its service; return apt's complaint, if any."""
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    add = [*apt, "install", "--yes", "--no-install-recommends", *packages.split()]
    with no_services():
        # A fresh machine has no package lists yet, an old one may have outdated ones.
        done = _run(add)
        if done.returncode:
            _run([*apt, "update"])
            done = _run(add)
    errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
    return (errors or [f"apt-get failed with {done.returncode}"])[0] if done.returncode else None


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@contextmanager
def no_services() -> Iterator[None]:
    """Keep packages from starting services while they are installed: Debian asks policy-rc.d.

    A policy that is there already stays as it is.
    """
    try:
        with POLICY.open("x") as policy:
            policy.write("#!/bin/sh\nexit 101\n")
    except OSError:
        yield
        return
    try:
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink()


def main(names: Sequence[str]) -> int:
    """Install each of ``names`` and say what is missing in the end."""
    if unknown := set(names) - set(PROGRAMS):
        print(f"postroom: cannot install {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    for name in names:
        if reason := install(name):
            program = PROGRAMS[name]
            print(f"postroom: no {program.title} ({reason}): {program.without}. {advice(name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
