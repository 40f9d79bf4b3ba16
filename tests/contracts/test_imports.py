"""Each import contract is shown to fail: one forbidden import breaks exactly that contract."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "worker", "shared", "migrations", "local", "cli")
CONTRACTS = {
    contract["id"]: contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
}


def lint(folder: Path) -> tuple[int, dict[str, bool]]:
    """Return the exit status, and which contract is kept, by name."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as l; l()"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), "COLUMNS": "400"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = re.findall(r"^(.+?) (KEPT|BROKEN)\b", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return done.returncode, {name: verdict == "KEPT" for name, verdict in found}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of what is checked, without the files that are no modules."""
    folder = tmp_path_factory.mktemp("tree")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            target = folder / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    yield folder
    shutil.rmtree(folder)


def test_all_contracts_are_kept(tree: Path) -> None:
    status, kept = lint(tree)
    assert status == 0
    assert kept == dict.fromkeys(CONTRACTS.values(), True)


# (contract, module to spoil, import to add)
VIOLATIONS = [
    ("images", "api.pagination", "import worker.patience"),
    ("images", "worker.patience", "import api"),
    ("shared-is-below", "shared.revision", "import local.ports"),
    ("shared-is-below", "migrations.env", "import local.ports"),
    ("no-ml-outside-the-worker", "api.pagination", "import numpy"),
    ("no-ml-outside-the-worker", "shared.revision", "import sklearn.svm"),
    ("no-ml-outside-the-worker", "shared.revision", "import joblib"),
    ("no-web-outside-the-api", "worker.patience", "import fastapi"),
    ("no-web-outside-the-api", "shared.revision", "import starlette.responses"),
    ("sql-in-shared", "api.pagination", "from sqlalchemy import text"),
    ("sql-in-shared", "worker.patience", "import psycopg2"),
    ("broker-in-shared-queue", "api.pagination", "import celery"),
    ("broker-in-shared-queue", "shared.revision", "from kombu import Connection"),
    ("local-stands-alone", "local.ports", "import shared.revision"),
    ("local-stands-alone", "local.ports", "import api.settings"),
    ("cli-speaks-rest", "cli.client", "import shared.revision"),
    ("cli-speaks-rest", "cli.client", "import local.ports"),
    ("cli-is-above", "local.ports", "import cli.client"),
    ("routes", "api.routes.categories", "import api.routes.ledger"),
    ("tasks", "worker.tasks.fold_ledger", "import worker.tasks.ingest"),
    ("api-layers", "api.settings", "import api.schemas.problem"),
    ("api-layers", "api.intake", "import api.pagination"),
    ("worker-layers", "worker.patience", "import worker.runtime"),
    ("shared-layers", "shared.revision", "import shared.messages"),
    ("shared-layers", "shared.models.base", "import shared.store.page"),
]


def test_every_contract_is_broken_once() -> None:
    assert {contract for contract, _, _ in VIOLATIONS} == set(CONTRACTS)


@pytest.mark.parametrize(("contract", "module", "line"), VIOLATIONS)
def test_a_forbidden_import_breaks_its_contract(
    tree: Path, contract: str, module: str, line: str
) -> None:
    file = tree / f"{module.replace('.', '/')}.py"
    before = file.read_text()
    file.write_text(f"{before}\n{line}\n")
    try:
        status, kept = lint(tree)
    finally:
        file.write_text(before)
    assert status != 0
    assert [name for name, fine in kept.items() if not fine] == [CONTRACTS[contract]]


def test_every_module_is_in_a_layer_and_all_routes_and_tasks_in_their_contract() -> None:
    """A new file that no contract knows would be checked by none."""
    text = (ROOT / "pyproject.toml").read_text()
    named = set(re.findall(r"\b(?:api|worker|shared)\.[\w.]+", text))
    for package in ("api", "worker", "shared"):
        for file in (ROOT / package).glob("*.py"):
            if file.stem not in {"__init__", "__main__", "middleware", "train", "evaluate"}:
                assert f"{package}.{file.stem}" in named
    assert {"api.routes.", "worker.tasks."} <= named  # followed by an asterisk
