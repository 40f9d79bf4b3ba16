"""Schemathesis over the running API, with all of its checks.

`make test` takes a few cases of each operation, `make fuzz` many.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import ROOT, Api

pytestmark = pytest.mark.rabbitmq

OURS = ("positive_data_acceptance", "negative_data_rejection", "use_after_free")
"""Checks that ours, see `hooks`, stand for."""

CONFIG = Path(__file__).with_name("schemathesis.toml")
FEWEST, FEWEST_OF_MANY = 500, 2_000
"""Cases that are too few for anything to have been tried; in `make fuzz`, which tries many."""

MANY = 50


def test_the_api_is_as_its_schema_says(request: pytest.FixtureRequest, site: Api) -> None:
    examples = request.config.getoption("--examples")
    run = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", f"--config-file={CONFIG}", "run",
            f"{site.url}/openapi.json", "--checks=all", f"--max-examples={examples}",
            f"--exclude-checks={','.join(OURS)}", "--seed=1", "--no-color",
            f"--header=Authorization: Bearer {site.key}",
            "--max-response-time=35",  # `wait` may be 30
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    cases = int(re.findall(r"(\d+) generated", run.stdout)[-1])
    print(f"{cases} cases, {examples} examples for each operation and phase")  # noqa: T201 - shown with -rP
    assert cases >= (FEWEST_OF_MANY if examples >= MANY else FEWEST), run.stdout
