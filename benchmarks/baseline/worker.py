"""The baseline's worker: `celery --app benchmarks.baseline.worker worker`."""

from typing import Any, Final

from celery.signals import worker_process_init
from sqlalchemy import create_engine
from sqlalchemy.dialects.postgresql import insert

from benchmarks.baseline.queue import CLASSIFY, app, settings
from benchmarks.baseline.table import Document
from worker.classify.artefact import DEFAULT, read
from worker.classify.model import Model

engine: Final = create_engine(settings.database_url.get_secret_value(), pool_size=1)
_models: Final[list[Model]] = []


@worker_process_init.connect
def _load_model(**_: object) -> None:
    _models.append(read(DEFAULT))


@app.task(name=CLASSIFY)
def classify(document: dict[str, Any]) -> None:
    """Classify one document, insert its row and commit."""
    [prediction] = _models[0].classify([document["content"]])
    row = {
        "id": document["id"],
        "content": document["content"],
        "metadata_": document["metadata"] or {},
        "source": document["source"],
        "external_id": document["external_id"],
        "category": prediction.category,
        "confidence": prediction.confidence,
    }
    # A message that is delivered again finds its row there.
    with engine.begin() as connection:
        connection.execute(insert(Document).values(row).on_conflict_do_nothing())
