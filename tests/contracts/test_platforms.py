"""Procfile, heroku.yml and the process list of `make run` agree where they must."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROCFILE = dict(re.findall(r"^(\w+): (.+)$", (ROOT / "Procfile").read_text(), re.MULTILINE))
HEROKU = (ROOT / "heroku.yml").read_text()


def test_the_images_run_what_the_procfile_does() -> None:
    commands = re.findall(r"^ +(?:- |web: |worker: )(\S+ .+)$", HEROKU, re.MULTILINE)
    assert sorted(commands) == sorted(PROCFILE.values())


def test_heroku_finds_the_images_in_the_root_folder() -> None:
    """It builds each in the folder of its Dockerfile, and the images need all of ours."""
    named = dict(re.findall(r"^ +(web|worker): (Dockerfile\.\w+)$", HEROKU, re.MULTILINE))
    targets = {name: str((ROOT / link).readlink()) for name, link in named.items()}
    assert targets == {"web": "docker/api.Dockerfile", "worker": "docker/worker.Dockerfile"}
    assert all((ROOT / target).is_file() for target in targets.values())


def test_make_run_has_no_release_process() -> None:
    programs = (ROOT / "local" / "supervisord.conf").read_text()
    names = set(re.findall(r"^\[program:(\w+)\]$", programs, re.MULTILINE))
    assert {"api", "worker", "beat"} <= names
    assert not names & {"release", "migrations"}
    assert "Procfile" not in programs
