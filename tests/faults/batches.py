"""Batches with a deadly text in their midst."""

from pathlib import Path
from uuid import uuid4

from tests.faults.site import Site
from tests.stream import Text


def batch(word: str) -> tuple[list[Text], Text]:
    """Return a batch with one text that has a word of `tests.deadly`, and that one."""
    texts = [Text(str(uuid4()), f"a fine neighbour {number}") for number in range(24)]
    culprit = Text(str(uuid4()), f"the word {word}")
    return [*texts[:12], culprit, *texts[12:]], culprit


def happened(site: Site, folder: Path, kind: str, times: int = 1) -> None:
    """Wait until deadly texts of a kind did their worst, or were about to, so often."""
    file = folder / kind
    site.wait(lambda: file.exists() and file.stat().st_size >= times, 60, f"{kind} {times} times")
