"""Clients that write document after document, and remember what they were promised."""

import asyncio
import itertools
import random
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final
from uuid import UUID

import aiohttp

from tests.background import Background
from tests.keys import bearer
from tests.stack import poll

CLIENTS: Final = 8
BATCH: Final = 25
_SINGLES: Final = 15
"""Single documents between two batches."""

PAUSE_SECONDS: Final = 0.03
LONG_PAUSE: Final = 0.3
"""Seconds between two requests of a client: usually, and while a long fault lasts."""

_REQUEST_SECONDS: Final = 10
_RETRY: Final = frozenset({429, 502, 503})

_WORDS: Final = [
    "space",
    "shuttle",
    "orbit",
    "nasa",
    "launch",
    "moon",
    "hockey",
    "goalie",
    "playoffs",
    "puck",
    "windows",
    "driver",
    "printer",
    "dos",
    "doctor",
    "patient",
    "disease",
    "medicine",
    "god",
    "church",
    "bible",
    "engine",
    "car",
    "brakes",
    "mileage",
    "key",
    "chip",
    "privacy",
]


@dataclass(frozen=True, slots=True)
class Text:
    """One version of a document; no two of a run have the same content."""

    id: str
    content: str


@dataclass(frozen=True, slots=True)
class Promise:
    """A 202: when it came (monotonic seconds), for which document, with which revision."""

    at: float
    text: Text
    revision: int


class Stream:
    """Eight clients or more that retry until each write is accepted.

    Most ids are written several times; a few are written by all clients at once. `accepted` has
    every promise in the order in which they came; `uncertain` the texts whose fate at least one
    request did not tell: refused or unanswered, they may have arrived all the same. A case adds
    to `doomed` the ids that shall end as dead letters, and to `foreign` how many documents it
    sent past the API. It may also make the `pause` between two requests of a client longer: what
    piles up during a long fault is worked off before what is accepted after it.
    """

    def __init__(
        self, background: Background, urls: Sequence[str], seed: int, *, key: str | None = None
    ) -> None:
        self.accepted: list[Promise] = []
        self.uncertain: Counter[Text] = Counter()
        self.unexpected: Counter[str] = Counter()
        self.doomed: set[str] = set()
        self.foreign = 0
        self.pause = PAUSE_SECONDS
        self.refused = 0
        self.unanswered = 0
        self.slowest_refusal = 0.0
        self._urls = urls
        self._seed = seed
        self._key = key
        self._numbers = itertools.count(1)
        self._shared = [_make_id(random.Random(seed)) for _ in range(20)]
        self._background = background
        self._wanted: float = float("inf")
        self._clients = [
            asyncio.run_coroutine_threadsafe(self._client(number), background.loop)
            for number in range(CLIENTS)
        ]

    def until(self, documents: int) -> None:
        """End once so many documents were accepted in all."""
        self._wanted = documents

    def ended(self) -> bool:
        """Say whether all clients are done; raise what one of them raised."""
        for client in self._clients:
            if client.done():
                client.result()
        return all(client.done() for client in self._clients)

    def wait(self, more: int) -> None:
        """Wait until `more` documents were accepted."""
        aim = len(self.accepted) + more
        poll(lambda: len(self.accepted), lambda count: count >= aim, seconds=60)

    def first_after(self, at: float) -> Promise | None:
        """Return the first promise made after a point in time."""
        return next((each for each in list(self.accepted) if each.at > at), None)

    def latest(self) -> dict[str, Promise]:
        """Return the promise that has to hold in the end, for each document.

        One client has written it: the last one that it was given. All clients have: that with the
        highest revision, since nobody knows in which order they were made.
        """
        found: dict[str, Promise] = {}
        for each in list(self.accepted):
            known = found.get(each.text.id)
            shared = each.text.id in self._shared
            if known is None or not shared or each.revision > known.revision:
                found[each.text.id] = each
        return found

    def broken(self, revisions: Mapping[str, int]) -> set[str]:
        """Return the ids of documents that are not stored, or only as an older write had them."""
        latest = self.latest().values()
        return {each.text.id for each in latest if revisions.get(each.text.id, 0) < each.revision}

    def send(self, texts: Sequence[Text], url: str = "") -> None:
        """Have one more client send a batch until it is accepted, and wait for that."""
        self._background.run(self._send_now(texts, url or self._urls[0]))

    def replace(self, text: Text, read: int, url: str) -> None:
        """Have one more client overwrite the revision that it read, and no other."""
        self._background.run(self._send_now([text], url, read))

    async def _send_now(self, texts: Sequence[Text], url: str, read: int | None = None) -> None:
        async with self._session() as session:
            await self._send(session, url, texts, random.Random(0), read)

    def _session(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
        return aiohttp.ClientSession(timeout=timeout, headers=bearer(self._key))

    async def _client(self, number: int) -> None:
        choose = random.Random(f"{self._seed} {number}")
        mine: deque[str] = deque(maxlen=40)
        url = self._urls[number % len(self._urls)]
        async with self._session() as session:
            for turn in itertools.count(number):
                if len(self.accepted) >= self._wanted:
                    return
                size = BATCH if turn % (_SINGLES + 1) == 0 else 1
                # A batch may not have an id twice.
                texts = {each.id: each for each in (self._next(choose, mine) for _ in range(size))}
                await self._send(session, url, list(texts.values()), choose)
                await asyncio.sleep(self.pause)

    def _next(self, choose: random.Random, mine: deque[str]) -> Text:
        kind = choose.random()
        if kind < 0.02:
            key = choose.choice(self._shared)
        elif kind < 0.4 and mine:
            key = choose.choice(mine)
        else:
            key = _make_id(choose)
            mine.append(key)
        words = " ".join(choose.choices(_WORDS, k=40))
        return Text(key, f"{words} {next(self._numbers)}")

    async def _send(
        self,
        session: aiohttp.ClientSession,
        url: str,
        texts: Sequence[Text],
        choose: random.Random,
        read: int | None = None,
    ) -> None:
        """Send until it is accepted, refused for good, or the stream shall end."""
        while not await self._send_once(session, url, texts, read):
            # What `Retry-After: 1` asks for, spread.
            await asyncio.sleep(choose.uniform(0.5, 1.0))
            if len(self.accepted) >= self._wanted:
                return

    async def _send_once(
        self, session: aiohttp.ClientSession, url: str, texts: Sequence[Text], read: int | None
    ) -> bool:
        method, path, content, headers = _request(texts, read)
        start = monotonic()
        try:
            async with session.request(method, url + path, json=content, headers=headers) as answer:
                body = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError):
            self.unanswered += 1
            self.uncertain.update(texts)
            return False
        # Who says what it has read is told whether that was so, after a moment.
        if answer.status == 202 or (answer.status == 200 and read is not None):
            self._promised(texts, [body] if len(texts) == 1 else body["documents"])
            return True
        self.uncertain.update(texts)
        if answer.status not in _RETRY:
            self.unexpected[str(answer.status)] += 1
            return True
        if "Retry-After" not in answer.headers:
            self.unexpected[f"{answer.status} without Retry-After"] += 1
        self.refused += 1
        self.slowest_refusal = max(self.slowest_refusal, monotonic() - start)
        return False

    def _promised(self, texts: Sequence[Text], answers: Sequence[dict[str, Any]]) -> None:
        now = monotonic()
        for text, answer in zip(texts, answers, strict=True):
            assert answer["id"] == text.id
            self.accepted.append(Promise(now, text, answer["revision"]))


def _request(texts: Sequence[Text], read: int | None) -> tuple[str, str, Any, dict[str, str]]:
    """Return method, path, JSON and headers of what writes some texts."""
    if read is not None:
        (text,) = texts
        match = {"If-Match": f'"{read}"'}
        return "PUT", f"/v1/documents/{text.id}", {"content": text.content}, match
    documents = [{"id": each.id, "content": each.content} for each in texts]
    if len(documents) == 1:
        return "POST", "/v1/documents", documents[0], {}
    return "POST", "/v1/documents/batch", documents, {}


@contextmanager
def streaming(*urls: str, key: str | None = None) -> Iterator[Stream]:
    """Let clients write while the block runs."""
    with Background() as background:
        stream = Stream(background, urls, seed=0, key=key)
        try:
            yield stream
        finally:
            stream.until(0)
        poll(stream.ended, bool, seconds=_REQUEST_SECONDS + 5)


def _make_id(choose: random.Random) -> str:
    return str(UUID(int=choose.getrandbits(128), version=4))
