"""The release is said in two places, and is the same."""

import tomllib
from pathlib import Path

from shared.release import RELEASE


def test_the_release_is_that_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["version"] == RELEASE
