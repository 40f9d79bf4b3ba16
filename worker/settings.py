"""Settings of the worker."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from shared.settings import SharedSettings
from worker.classify.artefact import DEFAULT, MANIFEST


def _has_artefact(directory: Path) -> Path:
    if not (directory / MANIFEST).is_file():
        raise ValueError(f"has no {MANIFEST}")
    return directory


class WorkerSettings(SharedSettings):
    """What a worker needs to know besides where database and broker are."""

    model_dir: Annotated[Path, AfterValidator(_has_artefact)] = Field(
        DEFAULT, description="folder of the classifier's artefact"
    )
    worker_concurrency: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        le=256,
        description="processes that classify and store",
    )
    worker_name: str = Field("worker", pattern=r"^[A-Za-z0-9_.-]+$")
    retry_initial_seconds: float = Field(0.25, gt=0, description="first wait after a passing fault")
    retry_max_seconds: float = Field(5, gt=0, description="longest wait between two tries")
    retry_give_back_seconds: float = Field(
        600, gt=0, description="time after which a waiting message goes back to its queue"
    )
