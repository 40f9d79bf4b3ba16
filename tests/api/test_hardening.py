"""Clients that are slow, greedy or sly: they get little, and everybody else is served meanwhile."""

import asyncio
import gzip
import json
import re
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from api.middleware import FOR_DATA, FOR_PAGES
from api.protocol import BODY_RATE, HEAD_SECONDS, MAX_HEAD_BYTES, BoundedProtocol
from tests.stack import Api, poll

pytestmark = pytest.mark.rabbitmq

DOCUMENTS = "/v1/documents"
JSON = "application/json"
PATIENCE = 2
ORIGIN = "https://pages.example"
MIB = 1 << 20
GARBAGE = b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"


@pytest.fixture(scope="module")
def api(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str, module_broker_url: str
) -> Iterator[Api]:
    """An API of little patience, which pages of one origin may call."""
    settings = {"SLOW_CLIENT_SECONDS": str(PATIENCE), "CORS_ORIGINS": f"http://x:1,{ORIGIN}"}
    folder = tmp_path_factory.mktemp("api")
    with Api(folder, module_database_url, module_broker_url, **settings) as server:
        yield server


@pytest.fixture(autouse=True)
def calm(api: Api) -> Iterator[None]:
    """See that nothing went wrong that nobody had thought of."""
    before = len(api.logged())
    yield
    wrong = [each for each in api.logged()[before:].splitlines() if "Traceback" in each]
    assert not wrong


@contextmanager
def connected(api: Api, buffer: int | None = None) -> Iterator[socket.socket]:
    with socket.socket() as connection:
        if buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(25)
        address = urlsplit(api.url)
        connection.connect((address.hostname, address.port))
        yield connection


def head(line: str = f"POST {DOCUMENTS}", **headers: object) -> bytes:
    lines = [f"{line} HTTP/1.1", "Host: x"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def answer(connection: socket.socket) -> bytes:
    """Return all that is sent until the server closes the connection."""
    received = b""
    while part := connection.recv(1 << 16):
        received += part
    return received


def first_answer(connection: socket.socket) -> bytes:
    """Return one answer of a connection that may stay open."""
    with connection.makefile("rb") as stream:
        lines = []
        while (line := stream.readline()) != b"\r\n":
            assert line, "the connection was closed"
            lines.append(line)
        (length,) = re.findall(rb"content-length: (\d+)", b"".join(lines))
        return b"".join([*lines, line, stream.read(int(length))])


def left(connection: socket.socket) -> bytes:
    """Return what can still be read, if anything."""
    try:
        return answer(connection)
    except ConnectionResetError:
        return b""


def told(received: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Return status, headers and body of an answer, once it is seen to be a problem of ours."""
    start, _, body = received.partition(b"\r\n\r\n")
    line, *rest = start.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in rest)}
    problem = json.loads(body)
    assert headers["content-type"] == "application/problem+json"
    assert problem["status"] == int(line.split()[1])
    assert problem["request_id"] == headers["x-request-id"]
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    return problem["status"], headers, problem


def served(client: httpx2.Client) -> None:
    """See that a document is accepted in two seconds, by somebody who comes just now."""
    start = time.monotonic()
    with httpx2.Client(base_url=client.base_url, timeout=15, trust_env=False) as fresh:
        response = fresh.post(DOCUMENTS, json={"content": "a text"})
    assert response.status_code == 202, response.text
    assert time.monotonic() - start < 2


def process(api: Api) -> psutil.Process:
    (pid,) = api.pids()
    return psutil.Process(pid)


def memory(api: Api) -> int:
    return int(process(api).memory_info().rss)


# --- What browsers are told ----------------------------------------------------------------------


def has(response: httpx2.Response, wanted: tuple[tuple[bytes, bytes], ...]) -> None:
    for name, value in wanted:
        assert response.headers.get_list(name.decode()) == [value.decode()], response.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/livez", 200),
        ("HEAD", "/livez", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/metrics", 200),
        ("GET", "/nothing", 404),
        ("GET", "/docs/assets/nothing", 404),
        ("DELETE", DOCUMENTS, 405),
        ("OPTIONS", DOCUMENTS, 405),
        ("POST", DOCUMENTS, 415),
        ("GET", f"{DOCUMENTS}/none", 422),
        ("GET", "/docs/assets/swagger-ui.css", 200),
    ],
)
def test_browsers_are_told_to_be_careful(
    client: httpx2.Client, method: str, path: str, status: int
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    has(response, FOR_DATA)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/oauth2-redirect"])
def test_pages_may_have_what_is_ours(client: httpx2.Client, path: str) -> None:
    has(client.get(path), FOR_PAGES)


@pytest.mark.parametrize("kind", [JSON, f"{JSON}; charset=utf-8"], ids=["shortcut", "usual"])
def test_pages_of_the_origins_that_are_set_may_call(client: httpx2.Client, kind: str) -> None:
    for origin, allowed in ((ORIGIN, ORIGIN), ("https://evil.example", None), ("null", None)):
        headers = {"Origin": origin, "Content-Type": kind}
        response = client.post(DOCUMENTS, content=b'{"content": "a"}', headers=headers)
        assert response.status_code == 202
        has(response, FOR_DATA)
        assert response.headers.get("Access-Control-Allow-Origin") == allowed
        assert "Access-Control-Allow-Credentials" not in response.headers
    assert "Location" in response.headers["Access-Control-Expose-Headers"]


def test_they_may_ask_first(client: httpx2.Client) -> None:
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
    }
    response = client.options(DOCUMENTS, headers=asked)
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    has(response, FOR_DATA)
    for wrong in ({"Origin": "https://evil.example"}, {"Access-Control-Request-Headers": "cookie"}):
        assert client.options(DOCUMENTS, headers=asked | wrong).status_code == 400


# --- Slow clients --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (DOCUMENTS, JSON),
        (f"{DOCUMENTS}/batch", JSON),
        ("/v1/imports", "application/x-ndjson"),
    ],
    ids=["shortcut", "usual", "import"],
)
def test_a_body_that_trickles_ends_with_408(
    api: Api, client: httpx2.Client, path: str, kind: str
) -> None:
    with connected(api) as connection:
        sent = head(f"POST {path}", Content_Type=kind, Content_Length=10_000, X_Request_Id="mine")
        connection.sendall(sent)
        start = time.monotonic()
        connection.settimeout(0.2)
        for byte in b'{"content": "' + b"x" * 200:
            connection.sendall(bytes([byte]))
            try:
                received = connection.recv(1 << 16)
            except TimeoutError:
                continue
            break
        assert PATIENCE <= time.monotonic() - start < PATIENCE + 4
        status, headers, problem = told(received)
        assert (status, headers["connection"]) == (408, "close")
        assert (problem["instance"], problem["request_id"]) == (path, "mine")
        assert connection.recv(1) == b""
    served(client)


def test_an_import_that_trickles_can_go_on_later(api: Api, client: httpx2.Client) -> None:
    key = {"Idempotency-Key": "trickle", "Content-Type": "application/x-ndjson"}
    lines = b'{"content": "a"}\n' * 3
    with connected(api) as connection:
        sent = head("POST /v1/imports", Content_Length=1_000, **key)
        connection.sendall(sent + lines)
        assert told(answer(connection))[0] == 408
    found = poll(
        lambda: client.get("/v1/imports", params={"idempotency_key": "trickle"}).json()["data"],
        lambda found: bool(found) and found[0]["status"] == "interrupted",
        seconds=5,
    )
    assert found[0]["accepted"] == 3
    again = client.post("/v1/imports", content=lines, headers=key)
    assert (again.status_code, again.json()["accepted"]) == (202, 3)


def test_a_body_that_is_slow_but_steady_is_taken(api: Api) -> None:
    text = b'{"content": "' + b"x" * 7 * BODY_RATE + b'"}'
    with connected(api) as connection:
        connection.sendall(head(Content_Type=JSON, Content_Length=len(text)))
        for start in range(0, len(text), BODY_RATE // 2):
            connection.sendall(text[start : start + BODY_RATE // 2])
            time.sleep(0.4)  # a little faster than it must be
        assert connection.recv(100).startswith(b"HTTP/1.1 202 ")


def test_a_head_that_trickles_and_a_silent_client_are_let_go(api: Api) -> None:
    start = time.monotonic()
    with connected(api) as silent, connected(api) as trickling, connected(api) as kept:
        trickling.sendall(head()[:-2])
        kept.sendall(head("GET /livez"))
        assert kept.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        trickling.settimeout(0.2)
        for number in range(200):
            kept.sendall(b"\r\n")  # what may come before a request, for ever
            trickling.sendall(f"X-{number}: y\r\n".encode())
            try:
                received = trickling.recv(1 << 16)
            except TimeoutError:
                continue
            break
        assert told(received)[0] == 408
        assert HEAD_SECONDS <= time.monotonic() - start < HEAD_SECONDS + 5
        assert answer(silent) == b""
        assert told(answer(kept))[0] == 408
        assert time.monotonic() - start < HEAD_SECONDS + 6


def test_a_client_that_reads_nothing_is_let_go(api: Api, client: httpx2.Client) -> None:
    with connected(api, buffer=4_096) as connection:
        own = connection.getsockname()[1]

        def known() -> bool:
            found = process(api).net_connections("tcp")
            return any(each.raddr[1:] == (own,) for each in found)

        connection.sendall(head("GET /openapi.json") * 200)
        poll(known, bool, seconds=5)
        served(client)
        poll(known, lambda found: not found, seconds=PATIENCE + 5)
        assert left(connection).count(b"HTTP/1.1 200 ") < 200


class _Transport(asyncio.Transport):
    """Takes all that is written, and remembers being closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def write_eof(self) -> None: ...


async def _never(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.Event().wait()


def _connection(state: ServerState) -> tuple[BoundedProtocol, _Transport]:
    """Return a new connection; call it with an event loop."""
    connection, transport = BoundedProtocol(Config(_never, ws="none"), state, {}), _Transport()
    connection.connection_made(transport)
    return connection, transport


def test_nobody_is_blamed_for_waiting_for_us() -> None:
    """As an import does while the broker takes nothing."""

    async def test() -> None:
        connection, transport = _connection(ServerState())
        connection.data_received(head(Content_Length=10 * MIB))
        connection.data_received(b"x" * MIB)
        for _ in range(100):
            connection.tick(PATIENCE, crowded=True)
        assert transport.written == b""
        connection.flow.resume_reading()
        for _ in range(1 + MIB // BODY_RATE):
            connection.tick(PATIENCE, crowded=True)
        assert told(transport.written)[0] == 408

    asyncio.run(test())


@pytest.mark.parametrize(("crowded", "seconds"), [(False, HEAD_SECONDS), (True, HEAD_SECONDS // 5)])
def test_who_says_nothing_makes_room_for_others(*, crowded: bool, seconds: int) -> None:
    async def test() -> None:
        connection, transport = _connection(ServerState())
        closed = []
        for _ in range(seconds + 1):
            connection.tick(PATIENCE, crowded=crowded)
            closed.append(transport.closed)
        assert closed == [False] * seconds + [True]
        assert transport.written == b""

    asyncio.run(test())


def test_there_is_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        state = ServerState()
        monkeypatch.setattr(BoundedProtocol, "room", 2)
        assert [_connection(state)[1].closed for _ in range(3)] == [False, False, True]

    asyncio.run(test())


# --- Many clients --------------------------------------------------------------------------------


@pytest.fixture
def many() -> Iterator[int]:
    """How many connections a test may hold; as many as asked for, or none of it is tested."""
    count = 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count + 1_000:
        pytest.skip(f"NOT TESTED: no more than {hard} files may be open (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 1_000), hard))
    yield count
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ten_thousand_idle_connections(api: Api, client: httpx2.Client, many: int) -> None:
    files, bytes_before = process(api).num_fds(), memory(api)
    with ExitStack() as stack:
        held = [stack.enter_context(connected(api)) for _ in range(many)]
        for number, each in enumerate(held):
            if number % 2:
                each.sendall(f"GET /livez HTTP/1.1\r\nX-{number}: y".encode())  # slow-loris
        served(client)
        poll(process(api).num_fds, lambda found: found >= files + many * 9 // 10, seconds=5)
        for _ in range(10):
            served(client)
        assert memory(api) - bytes_before < 150 * MIB
        # None of them has said enough within ten seconds, so each is sent away.
        poll(process(api).num_fds, lambda found: found <= files + 10, seconds=HEAD_SECONDS + 8)
        served(client)
        assert told(answer(held[1]))[0] == 408
        assert answer(held[0]) == b""


# --- Greedy clients ------------------------------------------------------------------------------


def flooded(api: Api, start: bytes, more: bytes) -> bytes:
    """Send `start`, and `more` up to 64 MiB as long as it is taken; return the answer."""
    with connected(api) as connection:
        connection.sendall(start)
        try:
            for _ in range(64 * MIB // len(more)):
                connection.sendall(more)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            pass
        return left(connection)


FLOODS = {
    "one header": (b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ", b"y" * 65_536),
    "a header's name": (b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"y" * 65_536),
    "headers": (b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n" * 10_000),
    "address": (b"GET /", b"y" * 65_536),
    "method": (b"", b"G" * 65_536),
    "chunk extension": (
        head(Content_Type=JSON, Transfer_Encoding="chunked") + b"5;",
        b"y" * 65_536,
    ),
    "trailers": (
        head(Content_Type=JSON, Transfer_Encoding="chunked") + b"1\r\n{\r\n0\r\n",
        b"X: y\r\n" * 10_000,
    ),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_beside_the_body_is_stopped(api: Api, client: httpx2.Client, name: str) -> None:
    served(client)
    before, start = memory(api), time.monotonic()
    received = flooded(api, *FLOODS[name])
    assert time.monotonic() - start < 10
    if received:  # a client that goes on sending may miss it
        assert told(received)[0] in {400, 431}
    served(client)
    assert memory(api) - before < 16 * MIB


@pytest.mark.parametrize("more", [0, 2_000])
def test_headers_have_a_limit(api: Api, more: int) -> None:
    padding = "y" * (MAX_HEAD_BYTES - 1_000 + more)
    with connected(api) as connection:
        connection.sendall(head("GET /livez", X_Padding=padding, Connection="close"))
        received = answer(connection)
    if not more:
        assert received.startswith(b"HTTP/1.1 200 ")
        return
    status, headers, problem = told(received)
    assert (status, headers["connection"]) == (431, "close")
    assert str(MAX_HEAD_BYTES) in problem["detail"]


def test_a_large_body_in_one_piece_is_no_head(api: Api) -> None:
    text = b'{"content": "' + b"x" * 200_000 + b'"}'
    with connected(api) as connection:
        connection.sendall(head(Content_Type=JSON, Content_Length=len(text)) + text)
        assert connection.recv(100).startswith(b"HTTP/1.1 202 ")


def go_on(connection: socket.socket, seconds: float) -> None:
    """Send so much that a body would keep up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection.sendall(b"x" * BODY_RATE)
        time.sleep(0.1)


def test_what_follows_an_answer_is_not_read_for_ever(api: Api) -> None:
    with connected(api) as connection:
        connection.sendall(head(Content_Type="text/plain", Content_Length=1 << 40))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 415 ")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            go_on(connection, HEAD_SECONDS + 6)


def bomb(mebibytes: int) -> bytes:
    """Return gzip a thousand times smaller than what is in it."""
    return gzip.compress(b"\0" * MIB) * mebibytes


def test_a_bomb_is_not_unpacked(api: Api, client: httpx2.Client) -> None:
    packed = bomb(7_000)
    assert len(packed) < 8 * MIB
    served(client)
    before = memory(api)
    headers = {"Content-Type": JSON, "Content-Encoding": "gzip"}
    for path in (DOCUMENTS, f"{DOCUMENTS}/batch", "/v1/classify"):
        start = time.monotonic()
        response = client.post(path, content=packed, headers=headers)
        assert response.status_code == 413, response.text
        assert time.monotonic() - start < 3
    served(client)
    assert memory(api) - before < 64 * MIB


def test_a_hundred_bombs_that_do_not_end_are_not_unpacked(api: Api, client: httpx2.Client) -> None:
    packed = bomb(7)
    before = memory(api)
    sent = head(Content_Type=JSON, Content_Encoding="gzip", Content_Length=len(packed) + 1)
    with ExitStack() as stack:
        held = [stack.enter_context(connected(api)) for _ in range(100)]
        for each in held:
            each.sendall(sent + packed)
        served(client)
        assert memory(api) - before < 64 * MIB
        for each in held:
            assert told(answer(each))[0] == 408


def test_large_bodies_crowd_each_other_out_and_nobody_else(api: Api, client: httpx2.Client) -> None:
    """They may have 128 MiB together: sixteen that lack their last byte, and no more."""
    before = memory(api)
    size = 8 * MIB
    sent = head(Content_Type=JSON, Content_Length=size)
    with ExitStack() as stack:
        held = [stack.enter_context(connected(api)) for _ in range(20)]
        for each in held:
            with suppress(BrokenPipeError, ConnectionResetError):
                each.sendall(sent + b" " * (size - 1))
        served(client)
        assert memory(api) - before < 200 * MIB
        for each in held[16:]:
            status, headers, _ = told(first_answer(each))
            assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        for each in held[:16]:
            each.sendall(b"1")
            assert told(first_answer(each))[0] == 422  # it is JSON, and no document
    served(client)


def test_empty_members_of_gzip_take_no_longer_than_full_ones(client: httpx2.Client) -> None:
    headers = {"Content-Type": JSON, "Content-Encoding": "gzip"}
    empty = gzip.compress(b"")
    start = time.monotonic()
    response = client.post(DOCUMENTS, content=empty * (8 * MIB // len(empty)), headers=headers)
    assert response.status_code == 400
    assert time.monotonic() - start < 5


# --- Sly clients ---------------------------------------------------------------------------------

INTERNALS = re.compile(
    r"Traceback|File \"|site-packages|\.py\b|psycopg|sqlalchemy|SELECT |Exception|Error\(|/tmp/"
)
PATHS = [
    "//v1/documents",
    "///",
    "/v1//documents",
    "/v1/./documents",
    "/v1/../v1/documents",
    "/v1/documents/..",
    "/v1/documents/../../etc/passwd",
    "/v1/documents/%2e%2e/%2e%2e/etc/passwd",
    "/v1%2Fdocuments",
    "/v1/documents/%2F",
    "/v1/documents/%00",
    "/v1/documents/a%0d%0aX-Evil:%20yes",
    "/v1/documents/%ff%fe",
    "/v1/documents/%",
    "/v1/documents/%zz",
    "/v1/documents/\xff",
    "/v1/documents?q=\xff",
    "/v1/documents?q=%ff&limit=%00",
    "/v1/documents?q=%00",
    "/v1/documents?cursor=%00",
    "/v1/documents?source=%00&metadata.%00=1",
    "/v1/documents/export?q=%00",
    "/v1/imports?idempotency_key=%00",
    "/v1/documents?" + "&".join(f"a{number}=1" for number in range(2_000)),
    "/docs/assets/..%2f..%2fsettings.py",
    "/docs/assets/../../core.py",
    "/docs/assets/%2e%2e/core.py",
    "/docs/assets//etc/passwd",
    "/docs/assets/%2Fetc%2Fpasswd",
    "/docs/assets/%00",
    "/docs/assets/" + "x" * 300,
    "/docs/assets/" + "x/" * 3_000,
    "/docs/assets",
    "/docs/",
    "/" + "a" * 20_000,
    "/" + "a/" * 10_000,
    "http://evil.example/v1/documents",
    "http://evil.example",
    "http://[::1",
    "evil.example:443",
    "*",
    "?",
    "#",
    "",
    "\\..\\..\\etc\\passwd",
    "/v1/documents\\..",
    "/v1/documents/[",
    "/v1/documents#x",
    "/v1/documents;a=b",
]


def asked(api: Api, sent: bytes) -> bytes:
    with connected(api) as connection:
        connection.sendall(sent)
        return answer(connection)


def harmless(api: Api, received: bytes) -> int:
    status = int(received.split(b" ", 2)[1])
    assert 200 <= status < 500, received
    if status >= 400:
        assert not INTERNALS.search(told(received)[2]["detail"])
    assert b"x-evil" not in received.lower().partition(b"\r\n\r\n")[0]
    assert b"root:" not in received
    return status


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path[:40]!r}")
def test_no_path_fails_or_leads_elsewhere(api: Api, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        harmless(api, asked(api, head(f"{method} {path}", Connection="close")))


@pytest.mark.parametrize(
    "path",
    [
        "//v1/documents",
        "/v1/../metrics",
        "/docs/assets/..%2fcore.py",
        "/docs/assets/%2e%2e/core.py",
    ],
)
def test_other_spellings_lead_nowhere(api: Api, path: str) -> None:
    assert harmless(api, asked(api, head(f"GET {path}", Connection="close"))) == 404


HEADS = {
    "no host": b"GET /v1/nothing HTTP/1.1\r\n",
    "two hosts": b"GET /v1/nothing HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
    "open bracket": b"GET /v1/nothing HTTP/1.1\r\nHost: [\r\n",
    "another's": b"GET /v1/nothing HTTP/1.1\r\nHost: evil.example/x?y#z\r\n",
    "no port": b"GET /v1/nothing HTTP/1.1\r\nHost: x:99999999\r\n",
    "not ASCII": b"GET /v1/nothing HTTP/1.1\r\nHost: \xff\xfe\r\n",
    "with user": b"GET /v1/documents?limit=1 HTTP/1.1\r\nHost: a:b@evil.example\r\n",
    "authorization": b"GET /v1/documents HTTP/1.1\r\nHost: x\r\nAuthorization: \xff\xfe\r\n",
    "length": b"POST /v1/documents HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n",
    "lengths": b"POST /v1/documents HTTP/1.1\r\nHost: x\r\n"
    b"Content-Length: 1\r\nContent-Length: 2\r\n",
    "length and chunks": b"POST /v1/documents HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
    b"Transfer-Encoding: chunked\r\n",
    "folded": b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n",
    "null": b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n",
    "upgrade": b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n",
    "request id": b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nX-Request-Id: \xff\x01\r\n",
    "connect": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n",
    "method": b"BREW /v1/nothing HTTP/1.1\r\nHost: x\r\n",
    "version": b"GET /v1/nothing HTTP/9.9\r\nHost: x\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n",
    "TLS": GARBAGE,
}


@pytest.mark.parametrize("name", HEADS)
def test_no_head_fails(api: Api, name: str) -> None:
    received = asked(api, HEADS[name] + b"Connection: close\r\n\r\n")
    assert harmless(api, received) in {200, 400, 404, 405, 411, 422}
    assert b"evil.example" not in received


def test_what_is_no_http_is_said_once(api: Api, client: httpx2.Client) -> None:
    before = len(api.log.read_bytes())
    for _ in range(200):
        assert told(asked(api, GARBAGE))[0] == 400
    assert len(api.log.read_bytes()) - before < 2_000
    served(client)
