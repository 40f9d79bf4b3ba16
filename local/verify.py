"""`make verify-ledger`: check the account of what `make run` runs, or of what the settings name."""

import json
import os
from pathlib import Path

from local.server import clean_environment
from local.settings import ROOT, load

ADDRESSES = "addresses.json"


def keep(data: Path, environment: dict[str, str]) -> None:
    """Write down where database and broker are, for the owner's eyes only."""
    names = ("DATABASE_URL", "BROKER_URL", "BROKER_API_URL")
    found = {name: environment[name] for name in names if name in environment}
    file = data / ADDRESSES
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(json.dumps(found))


def main() -> None:
    """Become the API's command that does it."""
    file = load().data_dir / ADDRESSES
    kept = json.loads(file.read_text()) if file.exists() else {}
    python = ROOT / ".venvs" / "api" / "bin" / "python"
    os.chdir(ROOT)
    environment = {**kept, **clean_environment()}
    os.execve(python, [str(python), "-m", "api.verify_ledger"], environment)  # noqa: S606  # no shell


if __name__ == "__main__":
    main()
