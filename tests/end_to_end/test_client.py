"""A client that a generator makes from the schema of the running API."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.end_to_end.conftest import Pipe
from tests.stack import poll

NAME = "postroom_client"

# It knows no NDJSON, which a batch may be as well as JSON: to it, bytes.
CONFIG = {
    "content_type_overrides": {
        "application/x-ndjson": "application/octet-stream",
        "text/csv": "application/octet-stream",
    }
}

Module = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def module(pipe: Pipe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    """Generate the client; yield what imports a part of it."""
    folder = tmp_path_factory.mktemp("client")
    generate(pipe, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield lambda name: importlib.import_module(f"{NAME}.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]


def generate(pipe: Pipe, folder: Path) -> None:
    schema, config = folder / "openapi.json", folder / "config.json"
    schema.write_bytes(pipe.client.get("/openapi.json").content)
    config.write_text(json.dumps(CONFIG | {"post_hooks": []}))
    run = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", "generate", f"--path={schema}",
         f"--config={config}", "--meta=none", f"--output-path={folder / NAME}",
         "--fail-on-warning"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture
def client(pipe: Pipe, module: Module) -> Iterator[Any]:
    with module("client").Client(base_url=pipe.api.url) as client:
        yield client


def test_documents_are_created_waited_for_read_listed_and_deleted(
    client: Any, module: Module
) -> None:

    def call(operation: str, *args: object, **values: object) -> Any:
        return module(f"api.documents.{operation}").sync_detailed(*args, client=client, **values)

    models = module("models")
    body = models.DocumentIn(content="The shuttle was launched into orbit.", source="client")
    accepted = call("create_document", body=body)
    assert accepted.status_code == 202
    assert isinstance(accepted.parsed, models.AcceptedOut)
    first = poll(
        lambda: call("get_document", accepted.parsed.id),
        lambda answer: bool(answer.status_code == 200),
        seconds=30,
    ).parsed
    assert isinstance(first, models.DocumentOut)
    assert (first.content, first.task_id) == (body.content, accepted.parsed.task_id)

    created = call("create_document", body=body, prefer="wait=20")
    assert created.status_code == 201
    second = created.parsed
    assert isinstance(second, models.DocumentOut)
    assert second.category == first.category

    page = call("list_documents", source="client").parsed
    assert [each.id for each in page.data] == [second.id, first.id]
    history = call("get_document_history", first.id).parsed
    assert history.latest_write.task_id == first.task_id
    for document in (first, second):
        assert call("delete_document", document.id).status_code == 204
        missing = call("get_document", document.id)
        assert isinstance(missing.parsed, models.ProblemOut)
        assert (missing.status_code, missing.parsed.status) == (404, 404)
    assert call("list_documents", source="client").parsed.data == []


def test_an_error_is_a_problem_with_its_fields(client: Any, module: Module) -> None:
    body = module("models").DocumentIn(content="")
    answer = module("api.documents.create_document").sync_detailed(client=client, body=body)
    assert answer.status_code == 422
    assert [each.pointer for each in answer.parsed.errors] == ["/content"]


def test_statistics_are_read(client: Any, module: Module) -> None:
    hour = module("models").GetStatsInterval("hour")
    stats = module("api.stats.get_stats").sync(client=client, interval=hour)
    assert len(stats.points) == 60
