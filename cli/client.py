"""The API, as the command sees it."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeAlias

import httpx2
from rich.console import Console

Found: TypeAlias = dict[str, Any]

out = Console()
err = Console(stderr=True)


class Refused(Exception):
    """The API answered with an error; the text is for people.

    Attributes:
        status: of the answer.
        retry_after: seconds that it asks to wait, None if it does not.
    """

    def __init__(self, response: httpx2.Response) -> None:
        self.status = response.status_code
        after = response.headers.get("Retry-After", "")
        self.retry_after = int(after) if after.isdecimal() else None
        super().__init__(_reason(response))


def _reason(response: httpx2.Response) -> str:
    try:
        problem = response.json()
        detail = str(problem["detail"])
        details = [f"{each['pointer']} {each['detail']}" for each in problem.get("errors", [])]
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}"
    return "; ".join([detail, *details])


class Api:
    """One API. Its methods raise Refused, and httpx2.TransportError if there is no answer."""

    def __init__(self, url: str, seconds: float = 60) -> None:
        """Prepare a client of the API at `url`; nothing is sent yet."""
        self.url = url
        key = os.environ.get("POSTROOM_KEY")  # no option: others could read it in the process list
        headers = {"Authorization": f"Bearer {key}"} if key else None
        self._client = httpx2.Client(base_url=url, timeout=seconds, headers=headers)

    def get(self, path: str, **params: str | int) -> Found:
        """Return what a resource is."""
        return _json(self._client.get(path, params=params))

    def ask(self, path: str) -> tuple[int, Found]:
        """Return status and body of a resource whose errors are answers, unless it needs a key."""
        response = self._client.get(path)
        if response.status_code in {httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN}:
            raise Refused(response)
        try:
            body = response.json()
        except ValueError:
            body = {}
        return response.status_code, body if isinstance(body, dict) else {}

    def post(self, path: str, body: Found) -> Found:
        """Return the answer to a JSON body."""
        return _json(self._client.post(path, json=body))

    def upload(
        self, path: str, content: Iterator[bytes], headers: dict[str, str], params: dict[str, str]
    ) -> Found:
        """Return the answer to a body that is sent as it is read."""
        return _json(self._client.post(path, content=content, headers=headers, params=params))

    def download(self, path: str, params: list[tuple[str, str]]) -> Iterator[bytes]:
        """Yield a resource as it comes in."""
        with self._client.stream("GET", path, params=dict(params)) as response:
            if response.is_error:
                response.read()
                raise Refused(response)
            yield from response.iter_bytes()


def _json(response: httpx2.Response) -> Found:
    if response.is_error:
        raise Refused(response)
    found: Found = response.json()
    return found


def fail(reason: object, status: int = 2) -> NoReturn:
    """Say in one line why nothing came of it, and end."""
    err.print(f"postroom: {reason}", style="red", markup=False, highlight=False)
    sys.exit(status)


def shown(error: Exception) -> str:
    """Return an error in words, its kind if it has none."""
    return str(error) or type(error).__name__


@contextmanager
def one_line_errors(api: Api) -> Iterator[None]:
    """End with one line if the API refuses, or cannot be reached."""
    try:
        yield
    except Refused as error:
        fail(error)
    except httpx2.TransportError as error:
        fail(f"{api.url} does not answer: {shown(error)}")
    except BrokenPipeError:
        # Whoever reads our output has had enough; Python would complain when it closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def pause(seconds: float) -> None:
    """Wait, as the API asked to."""
    time.sleep(seconds)
