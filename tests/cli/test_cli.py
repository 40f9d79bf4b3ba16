"""The `postroom` command against a real API with a worker."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from local.ports import free_ports
from tests.keys import make_admin
from tests.stack import Api, Worker, poll, processes, running

__all__ = ["processes"]

pytestmark = pytest.mark.rabbitmq

ROOT = Path(__file__).parents[2]


def start(url: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments],
        env={**os.environ, "POSTROOM_URL": url, "COLUMNS": "200", "NO_COLOR": "1"},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], stdin: str | None = None) -> tuple[int, str, str]:
    """Return status, standard output and standard error."""
    with process:
        try:
            output, errors = process.communicate(stdin, timeout=120)
        finally:
            process.kill()
    return process.returncode, output, errors


def postroom(url: str, *arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
    return ended(start(url, *arguments), stdin)


@pytest.fixture(scope="module")
def api(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str, module_broker_url: str
) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("cli")
    api = Api(folder / "api", module_database_url, module_broker_url)
    worker = Worker(folder / "worker", module_database_url, module_broker_url)
    with ExitStack() as stack:
        running(stack, api, worker)
        with api.client() as client:
            poll(lambda: client.get("/readyz").status_code, lambda code: code == 200, seconds=15)
        yield api


@pytest.fixture
def client(api: Api) -> Iterator[httpx2.Client]:
    with api.client() as client:
        yield client


def has(client: httpx2.Client, path: str) -> None:
    if path not in client.get("/openapi.json").json()["paths"]:
        pytest.skip(f"this API has no {path}")


def ndjson(file: Path, documents: Sequence[object]) -> Path:
    text = "".join(json.dumps(each) + "\n" for each in documents)
    if file.suffix == ".gz":
        file.write_bytes(gzip.compress(text.encode()))
    else:
        file.write_text(text)
    return file


@pytest.mark.parametrize("name", ["posts.ndjson", "posts.jsonl.gz"])
def test_a_file_is_imported_once(
    api: Api, client: httpx2.Client, tmp_path: Path, name: str
) -> None:
    posts = [{"content": f"{name} {n}", "source": name} for n in range(300)]
    file = ndjson(tmp_path / name, posts)
    code, _, said = postroom(api.url, "import", str(file))
    assert code == 0, said
    assert "300 accepted, 300 stored" in said
    code, _, said = postroom(api.url, "import", str(file))
    assert code == 0
    assert "was imported before" in said
    page = client.get("/v1/documents", params={"source": name, "limit": 250}).json()
    assert page["has_more"]
    page = client.get(page_url(page, name)).json()
    assert len(page["data"]) == 50


def page_url(page: dict[str, str], source: str) -> str:
    return f"/v1/documents?source={source}&limit=250&cursor={page['next_cursor']}"


def test_rejects_are_shown_and_saved(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "posts.csv"
    file.write_text("text;who\ngood;ann\n;bob\n")
    saved = tmp_path / "rejects.csv"
    options = ("--delimiter", ";", "--map", "content=text", "--map", "metadata.author=who")
    code, _, said = postroom(
        api.url, "import", str(file), "--rejects", str(saved), "--no-wait", *options
    )
    assert code == 1
    assert "1 accepted, 1 rejected" in said
    assert "must not be empty" in said
    assert saved.read_text() == "text;who\n;bob\n"
    code, _, _ = postroom(api.url, "import", str(file), "--allow-rejects", *options)
    assert code == 0


def test_standard_input_is_imported(api: Api) -> None:
    code, _, said = postroom(
        api.url, "import", "-", "--format", "json", stdin='[{"content": "from a pipe"}]'
    )
    assert code == 0, said
    assert "1 accepted" in said


def test_an_import_goes_on_by_itself(
    processes: ExitStack, tmp_path: Path, database_url: str, broker_url: str
) -> None:
    """The API is stopped and killed in its middle."""
    api = Api(tmp_path / "api", database_url, broker_url)
    running(processes, api)
    count = 60_000
    file = ndjson(
        tmp_path / "many.ndjson", [{"content": f"{n} " + "x" * 500} for n in range(count)]
    )
    process = start(api.url, "import", str(file), "--no-wait")
    with api.client() as client:
        wait_for(client, 3_000)
    api.stop()
    api.start()
    with api.client() as client:
        poll(lambda: ready(client), bool, seconds=30)
        wait_for(client, 12_000)
    api.kill()
    api.start()
    code, _, said = ended(process)
    assert code == 0, said
    assert f"{count:,} accepted" in said
    assert "Interrupted" in said
    with api.client() as client:
        (found,) = client.get("/v1/imports").json()["data"]
        assert (found["accepted"], found["rejected"]) == (count, 0)


def ready(client: httpx2.Client) -> bool:
    try:
        return client.get("/livez").status_code == 200
    except httpx2.TransportError:
        return False


def wait_for(client: httpx2.Client, accepted: int) -> None:
    poll(
        lambda: client.get("/v1/imports").json().get("data", []),
        lambda data: bool(data) and data[0]["accepted"] >= accepted,
        seconds=60,
    )


def test_status(api: Api) -> None:
    code, output, _ = postroom(api.url, "status", "--json")
    assert code == 0
    found = json.loads(output)
    assert found["ready"]["database"] == "ok"
    assert found["ledger"]["accepted"] >= 0
    code, output, _ = postroom(api.url, "status")
    assert code == 0
    assert "ready: status ok" in output
    assert "migrations" in output
    assert "in_flight" in output


def test_classify(api: Api, client: httpx2.Client) -> None:
    has(client, "/v1/classify")
    text = "The shuttle will launch into orbit on Monday."
    code, output, said = postroom(api.url, "classify", "-", stdin=text)
    assert code == 0, said
    assert output.startswith("sci.space")
    code, output, _ = postroom(api.url, "classify", text, "--json", "--explain")
    assert code == 0
    assert json.loads(output)["results"][0]["category"] == "sci.space"


def test_export(api: Api, client: httpx2.Client, tmp_path: Path) -> None:
    has(client, "/v1/documents/export")
    file = ndjson(tmp_path / "a.ndjson", [{"content": f"{n}", "source": "out"} for n in range(20)])
    assert postroom(api.url, "import", str(file))[0] == 0
    target = tmp_path / "out.ndjson"
    code, _, said = postroom(api.url, "export", "--output", str(target), "--where", "source=out")
    assert code == 0, said
    found = [json.loads(line) for line in target.read_text().splitlines()]
    assert sorted(int(each["content"]) for each in found) == [*range(20)]
    code, output, _ = postroom(api.url, "export", "--format", "csv", "--where", "source=out")
    assert code == 0
    assert len(output.splitlines()) == 21


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("import", "no-such-file.ndjson"), "is no file"),
        (("import", "README.md"), "say --format"),
        (("import", "-"), "say --format"),
        (("import", "-", "--format", "csv", "--map", "content"), "must be NAME=VALUE"),
        (("import", "-", "--format", "csv", "--map", "colour=x"), "is not known"),
        (("export", "--where", "colour=x"), "colour"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    api: Api, arguments: tuple[str, ...], reason: str
) -> None:
    code, output, said = postroom(api.url, *arguments, stdin="")
    assert code == 2
    assert not output
    assert reason in said
    assert len(said.strip().splitlines()[-1:]) == 1
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "arguments", [("status",), ("classify", "x"), ("export",), ("import", "-", "--format", "json")]
)
def test_an_api_that_is_away_is_said_to_be(arguments: tuple[str, ...]) -> None:
    code, _, said = postroom(f"http://127.0.0.1:{free_ports(1)[0]}", *arguments, stdin="[]")
    assert code == 2
    assert "does not answer" in said
    assert "Traceback" not in said


def test_the_key_of_the_environment_is_shown(
    tmp_path: Path,
    module_database_url: str,
    module_broker_url: str,
    processes: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = Api(tmp_path / "api", module_database_url, module_broker_url, AUTH="on")
    running(processes, api)
    for command in (("status",), ("export",)):
        status, _, errors = postroom(api.url, *command)
        assert (status, errors.count("\n")) == (2, 1), errors
        assert "Send a key" in errors
    monkeypatch.setenv("POSTROOM_KEY", make_admin(module_database_url))
    with api.client() as client:
        poll(lambda: client.get("/readyz").status_code, lambda code: code == 200, seconds=15)
    assert postroom(api.url, "status")[0] == 0
