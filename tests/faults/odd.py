"""Texts that harm who classifies them, where the worker was started to let them."""

from pathlib import Path
from uuid import uuid4

from tests.faults.program import ODD
from tests.faults.site import Site
from tests.faults.stream import Text


def batch(kind: str, times: int) -> tuple[list[Text], Text]:
    """Return a batch with one odd text in its midst, and that one."""
    texts = [Text(str(uuid4()), f"a fine neighbour {number}") for number in range(24)]
    culprit = Text(str(uuid4()), f"{ODD} {kind} {times} {kind}")
    return [*texts[:12], culprit, *texts[12:]], culprit


def happened(site: Site, folder: Path, kind: str, times: int = 1) -> None:
    """Wait until odd texts did what they do."""
    file = folder / kind
    site.wait(lambda: file.exists() and file.stat().st_size >= times, 60, f"{kind} {times} times")
