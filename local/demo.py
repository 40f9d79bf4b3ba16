"""`make demo`: send a few hundred documents to the running API and show what became of them.

The texts are put together from sentences written for this purpose, ``demo.json``, on the themes of
the 20 newsgroups that the default model was trained on.
"""

import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from threading import Event
from typing import TypeVar

import httpx2
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from local.server import ServerError
from local.settings import load

PER_THEME = 16
SENTENCES = 4
CONNECTIONS = 8
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Stored:
    """One document as it came out: ``confidence`` is from 0 to 1."""

    theme: str
    content: str
    category: str | None
    confidence: float | None


def documents() -> list[tuple[str, str]]:
    """Return (theme, text) pairs, the same each time, in mixed order."""
    themes = json.loads(Path(__file__).with_name("demo.json").read_text(encoding="utf-8"))
    dice = random.Random(20)  # noqa: S311  (nothing secret)
    pairs = [
        (theme, " ".join(chosen))
        for theme, sentences in themes.items()
        for chosen in dice.sample(list(combinations(sentences, SENTENCES)), PER_THEME)
    ]
    dice.shuffle(pairs)
    return pairs


class Demo:
    """Sends documents to the API at ``url`` and fetches them again."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url
        self.stopping = Event()
        headers = {"Authorization": f"Bearer {key}"} if key else None
        self.client = httpx2.Client(base_url=url, timeout=15, trust_env=False, headers=headers)

    def send(self, document: tuple[str, str]) -> str:
        """Send one document and return its id; ServerError if it is not accepted in time."""
        theme, content = document
        body = {"content": content, "source": "demo", "metadata": {"theme": theme}}
        for answer in self._until(lambda: self.client.post("/v1/documents", json=body)):
            if answer.status_code == httpx2.codes.ACCEPTED:
                return str(answer.json()["id"])
            if answer.status_code not in {429, 503}:
                break
        else:
            msg = "the API takes nothing: it was busy or stopping all the time"
            raise ServerError(msg)
        msg = f"the API answered {answer.status_code}: {answer.text[:300]}"
        raise ServerError(msg)

    def fetch(self, sent: tuple[tuple[str, str], str]) -> Stored:
        """Wait until a document is stored and return it; ServerError if it takes too long."""
        (theme, content), id_ = sent
        for answer in self._until(lambda: self.client.get(f"/v1/documents/{id_}")):
            if answer.status_code == httpx2.codes.OK:
                found = answer.json()
                return Stored(theme, content, found["category"], found["confidence"])
        msg = f"document {id_} was accepted but is not stored yet: do the workers run?"
        raise ServerError(msg)

    def _until(self, call: Callable[[], httpx2.Response]) -> Iterator[httpx2.Response]:
        """Repeat a call until the caller has enough, for PATIENCE_SECONDS at most."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not self.stopping.is_set():
            try:
                yield call()
            except httpx2.ConnectError as error:
                msg = f"nothing listens on {self.url}: run `make run` in another terminal first"
                raise ServerError(msg) from error
            except httpx2.TransportError as error:
                msg = f"no answer from {self.url}: {error}"
                raise ServerError(msg) from error
            if time.monotonic() > end:
                return
            self.stopping.wait(0.05)


def columns() -> Iterable[TextColumn | BarColumn | MofNCompleteColumn | TimeElapsedColumn]:
    """Return what the progress display shows."""
    return TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()


def run(demo: Demo, console: Console) -> list[Stored]:
    """Send everything, wait until everything is stored, and return it."""
    pairs = documents()
    with Progress(*columns(), console=console) as progress:
        accepted = progress.add_task("accepted", total=len(pairs))
        stored = progress.add_task("stored", total=len(pairs))
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            try:
                ids = [_step(progress, accepted, id_) for id_ in pool.map(demo.send, pairs)]
                found = pool.map(demo.fetch, zip(pairs, ids, strict=True))
                return [_step(progress, stored, each) for each in found]
            except BaseException:
                demo.stopping.set()
                pool.shutdown(cancel_futures=True)
                raise


T = TypeVar("T")


def _step(progress: Progress, task: TaskID, result: T) -> T:
    progress.advance(task)
    return result


def show(found: list[Stored], console: Console) -> None:
    """Print the categories that came out and an example of each."""
    by_category: defaultdict[str, list[Stored]] = defaultdict(list)
    for each in found:
        by_category[each.category or "none (failed)"].append(each)
    table = Table("category", "documents", "confidence", expand=True)
    table.add_column("an example", ratio=1, no_wrap=True, overflow="ellipsis")
    for category, members in sorted(by_category.items()):
        mean = sum(each.confidence or 0 for each in members) / len(members)
        example = max(members, key=lambda each: each.confidence or 0).content
        table.add_row(category, str(len(members)), f"{mean:.2f}", example)
    console.print(table)
    matching = sum(each.category == each.theme for each in found)
    console.print(f"{matching} of {len(found)} came out as the theme that they were written for.")


def main() -> int:
    """Run the demo; the exit status is 1 when it could not be done."""
    console = Console()
    try:
        settings = load()
        demo = Demo(settings.api_url, settings.postroom_key)
        show(run(demo, console), console)
        console.print(f"All of them: {demo.url}/v1/documents?source=demo", highlight=False)
    except ServerError as error:
        print(f"postroom: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
