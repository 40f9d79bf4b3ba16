"""Messages and documents that cannot be worked, or that harm who works them."""

from pathlib import Path

import pytest

from tests.deadly import HANG, OOM, POISON
from tests.faults.batches import batch, happened
from tests.faults.conftest import Case
from tests.faults.site import Site
from tests.stream import Stream, Text

pytestmark = pytest.mark.rabbitmq


@pytest.mark.quick
@pytest.mark.fault("a child out of memory")
def test_a_child_runs_out_of_memory(site: Site, case: Case, harm: Path) -> None:
    site.add_api()
    site.add_worker("--deadly", str(harm))

    def exhaust(site: Site, stream: Stream) -> None:
        texts, _ = batch(f"{OOM}-1-times")
        stream.send(texts)
        happened(site, harm, OOM, times=2)

    verdict = case.run(site, exhaust)
    assert verdict.restarts == 0, "the worker has ended"


@pytest.mark.fault("a message over its hard time limit")
def test_a_message_takes_too_long(site: Site, case: Case, harm: Path) -> None:
    site.add_api()
    site.add_worker("--deadly", str(harm), "--time-limit", "3")

    def dawdle(site: Site, stream: Stream) -> None:
        texts, _ = batch(f"{HANG}-1-times")
        stream.send(texts)
        happened(site, harm, HANG, times=2)

    case.run(site, dawdle)


@pytest.mark.fault("a poison document in a batch")
def test_a_document_cannot_be_classified(site: Site, case: Case, harm: Path) -> None:
    site.add_api()
    site.add_worker("--deadly", str(harm))
    poison: list[Text] = []

    def poison_batch(site: Site, stream: Stream) -> None:
        texts, culprit = batch(POISON)
        poison.append(culprit)
        stream.send(texts)
        happened(site, harm, POISON, times=2)

    case.run(site, poison_batch)
    failed = site.query("SELECT id::text FROM documents WHERE status = 'failed'")
    assert failed == [(each.id,) for each in poison]
