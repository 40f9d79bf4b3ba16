"""What each image installs, read from the compiled requirements."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "requirements"
COMPILED = ("api", "worker", "local", "cli", "dev")

# Whatever could be an address: of an index, a file, a repository.
ADDRESS = re.compile(r"https?:|file:|ssh:|git\+|//|@ |--(?:extra-)?index|--find-links|-f |-i ")


def entries(name: str) -> dict[str, str]:
    """Return each requirement of a compiled file by name, with all that is said of it."""
    lines = (FOLDER / f"{name}.txt").read_text().replace("\\\n", " ").splitlines()
    found: dict[str, str] = {}
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            match = re.match(r"[A-Za-z0-9][\w.-]*", line)
            assert match, line
            found[match[0].lower().replace("_", "-")] = line
    return found


def version(entry: str) -> str:
    match = re.match(r"[\w.-]+(?:\[[\w,-]+\])?==([^ ;]+)", entry)
    assert match, f"not pinned: {entry[:80]}"
    return match[1]


@pytest.mark.parametrize(
    ("image", "forbidden"),
    [
        ("api", {"scikit-learn", "numpy", "scipy", "joblib", "flower"}),
        ("worker", {"fastapi", "starlette", "uvicorn"}),
        ("local", {"scikit-learn", "numpy", "fastapi", "starlette", "celery", "sqlalchemy"}),
        ("cli", {"scikit-learn", "numpy", "fastapi", "starlette", "celery", "sqlalchemy"}),
    ],
)
def test_no_image_holds_what_belongs_to_another(image: str, forbidden: set[str]) -> None:
    found = entries(image)
    assert len(found) > 5
    assert not forbidden & set(found)


@pytest.mark.parametrize(
    ("image", "needed"),
    [
        ("api", {"fastapi", "uvicorn", "sqlalchemy", "celery", "alembic"}),
        ("worker", {"scikit-learn", "joblib", "celery", "sqlalchemy", "flower"}),
        ("cli", {"httpx2", "rich", "typer"}),
        ("dev", {"pytest", "ruff", "mypy", "import-linter", "fastapi", "scikit-learn"}),
    ],
)
def test_each_image_holds_what_it_is_for(image: str, needed: set[str]) -> None:
    assert needed <= set(entries(image))


@pytest.mark.parametrize("name", COMPILED)
def test_everything_is_pinned_and_hashed(name: str) -> None:
    for entry in entries(name).values():
        assert version(entry)
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry[:80]


@pytest.mark.parametrize("name", ["api", "worker", "local", "cli"])
def test_the_tests_run_on_what_the_images_install(name: str) -> None:
    development = entries("dev")
    for package, entry in entries(name).items():
        assert version(entry) == version(development[package]), package


@pytest.mark.parametrize("name", COMPILED)
def test_what_was_asked_for_is_in_the_compiled_file(name: str) -> None:
    compiled = entries(name)
    for package in asked_for(name):
        assert package in compiled


def asked_for(name: str) -> set[str]:
    found: set[str] = set()
    for line in (FOLDER / f"{name}.in").read_text().splitlines():
        if line.startswith("-r "):
            found |= asked_for(line.removeprefix("-r ").removesuffix(".in"))
        elif line and not line.startswith("#"):
            match = re.match(r"[A-Za-z0-9][\w.-]*", line)
            assert match, line
            found.add(match[0].lower())
    return found


def test_the_root_file_is_both_images_in_one_environment() -> None:
    """pip takes the two together only where they agree on every version and every hash."""
    root = (FOLDER.parent / "requirements.txt").read_text()
    named = [line.split() for line in root.splitlines() if line and not line.startswith("#")]
    assert named == [["-r", "requirements/api.txt"], ["-r", "requirements/worker.txt"]]
    api, worker = entries("api"), entries("worker")
    both = api.keys() & worker.keys()
    assert {"celery", "sqlalchemy"} <= both
    for package in both:
        assert api[package] == worker[package]


def test_no_file_records_an_address() -> None:
    for file in FOLDER.iterdir():
        for number, line in enumerate(file.read_text().splitlines(), 1):
            assert not ADDRESS.search(line), f"{file.name}:{number}"
