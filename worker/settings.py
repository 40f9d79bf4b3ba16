"""Settings of the worker."""

import os
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from shared.messages import BULK_QUEUE, CLASSIFY_QUEUE, INGEST_QUEUE, MAINTAIN_QUEUE
from shared.settings import SharedSettings
from worker.classify.artefact import DEFAULT, DEFAULT_SHA256, MANIFEST

QUEUES: Final = (INGEST_QUEUE, BULK_QUEUE, CLASSIFY_QUEUE, MAINTAIN_QUEUE)
"""What workers may consume. Dead letters wait for a person."""


def _queues(value: str) -> str:
    names = dict.fromkeys(name.strip() for name in value.split(","))
    if not names.keys() <= set(QUEUES):
        raise ValueError(f"must be names out of {', '.join(QUEUES)}, with commas in between")
    return ",".join(names)


def _has_artefact(directory: Path) -> Path:
    if not (directory / MANIFEST).is_file():
        raise ValueError(f"has no {MANIFEST}")
    return directory


class WorkerSettings(SharedSettings):
    """What a worker needs to know besides where database and broker are."""

    model_dir: Annotated[Path, AfterValidator(_has_artefact)] = Field(
        DEFAULT, description="folder of the classifier's artefact"
    )
    model_sha256: str = Field(
        DEFAULT_SHA256,
        pattern=r"^[0-9a-f]{64}$",
        description="digest of the artefact's manifest, as training printed it",
    )
    worker_concurrency: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        le=256,
        description="processes that classify and store",
    )
    worker_name: str = Field("worker", pattern=r"^[A-Za-z0-9_.-]+$")
    audit_days: int = Field(
        365, ge=1, le=36_500, description="days after which an entry of the audit log is purged"
    )
    import_days: int = Field(
        90, ge=1, le=36_500, description="days after which an import and its rejects are purged"
    )
    worker_queues: Annotated[str, AfterValidator(_queues)] = Field(
        ",".join(QUEUES), description="queues to consume, with commas in between"
    )
    retry_initial_seconds: float = Field(0.25, gt=0, description="first wait after a passing fault")
    retry_max_seconds: float = Field(5, gt=0, description="longest wait between two tries")
    retry_give_back_seconds: float = Field(
        600, gt=0, description="time after which a waiting message goes back to its queue"
    )

    worker_metrics_host: str = Field("127.0.0.1", min_length=1)
    worker_metrics_port: int = Field(
        0, ge=0, le=65_535, description="where Prometheus finds a worker's metrics; 0 for nowhere"
    )

    @property
    def solo(self) -> bool:
        """Whether a worker is one process: the spool's consumers share no pipe with children."""
        return self.broker_url.get_secret_value().startswith("spool://")

    @property
    def children(self) -> int:
        """How many processes of a worker classify and store; a single one does so itself."""
        return 1 if self.solo else self.worker_concurrency
