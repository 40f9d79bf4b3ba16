"""A model on disk: `model.joblib` beside the `manifest.json` that vouches for it.

A joblib file is a pickle: loading one runs what is in it. So a file is loaded only when its digest
is the manifest's, and the manifest is believed only when its own digest is the one that somebody
set who trained the model. The bytes that were hashed are the bytes that are loaded. So nothing is
loaded that was damaged, mixed up or exchanged, be it both files by somebody who can write them.
"""

import io
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import joblib
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.classify.model import Calibration, Model
from worker.classify.vectoriser import Vectoriser

DEFAULT = Path(__file__).parents[1] / "models" / "20newsgroups"
"""The directory of the model that ships with the product."""

DEFAULT_SHA256 = "3768625a49c57dd02cbe538b01b3806d19c6a63404d3c20f6227f3a3825c8b9c"
"""The digest of its manifest."""

MODEL, MANIFEST = "model.joblib", "manifest.json"


class ArtefactError(Exception):
    """An artefact that must not be used: one line with the file and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class TrainingData(BaseModel):
    """What a model was trained on: SHA-256 over all texts and labels, and how many documents."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    documents: int
    fingerprint: str


class Manifest(BaseModel):
    """What an artefact says of itself; `metrics` are by the name of the texts measured on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    name: str = Field(min_length=1)
    created_at: datetime
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scikit_learn: str
    classes: tuple[str, ...]
    training: TrainingData
    metrics: dict[str, dict[str, int | float]]


def write(
    directory: Path,
    model: Model,
    *,
    training: TrainingData,
    metrics: Mapping[str, Mapping[str, float]],
) -> Manifest:
    """Write `model` to `directory`, which is made where missing, and return its manifest."""
    content = _dump(model)
    manifest = Manifest(
        name=model.version,
        created_at=datetime.now(UTC).replace(microsecond=0),
        sha256=sha256(content).hexdigest(),
        scikit_learn=version("scikit-learn"),
        classes=model.categories,
        training=training,
        metrics={texts: dict(figures) for texts, figures in metrics.items()},
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MODEL).write_bytes(content)
    (directory / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", "utf-8")
    return manifest


def digest(directory: Path) -> str:
    """Return what vouches for the artefact in `directory`: its manifest's SHA-256."""
    return sha256(_bytes(directory / MANIFEST)).hexdigest()


def read(directory: Path = DEFAULT, trusted: str = DEFAULT_SHA256) -> Model:
    """Return the verified model of `directory`, whose manifest has the digest `trusted`.

    Raises `ArtefactError` where a file is missing, damaged, not what the digests say, or made by
    another minor release of scikit-learn.
    """
    content = _bytes(directory / MANIFEST)
    if sha256(content).hexdigest() != trusted:
        reason = "its SHA-256 is not the one to trust, see MODEL_SHA256; not loaded"
        raise ArtefactError(directory / MANIFEST, reason)
    manifest = _manifest(content, directory / MANIFEST)
    path = directory / MODEL
    content = _bytes(path)
    if sha256(content).hexdigest() != manifest.sha256:
        raise ArtefactError(path, f"its SHA-256 is not the one in {MANIFEST}; not loaded")
    return _load(content, path, manifest)


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of `directory`, whoever wrote it; raises `ArtefactError` as `read`."""
    return _manifest(_bytes(directory / MANIFEST), directory / MANIFEST)


def _manifest(content: bytes, path: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "content"
        raise ArtefactError(path, f"{field}: {first['msg']}") from None
    installed = version("scikit-learn")
    if _minor(installed) != _minor(manifest.scikit_learn):
        reason = f"made by scikit-learn {manifest.scikit_learn}, installed is {installed}"
        raise ArtefactError(path, f"{reason}; train the model again")
    return manifest


def _minor(release: str) -> list[str]:
    return release.split(".")[:2]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtefactError(path, error.strerror or type(error).__name__) from error


def _dump(model: Model) -> bytes:
    # Arrays and plain values only: renaming a class of ours must not break a stored model. The
    # words as one text, because joblib unpickles in Python and 120,000 strings take 0.2 s.
    state = {
        "classes": list(model.categories),
        "terms": "\n".join(model.vectoriser.terms),
        "idf": model.vectoriser.idf,
        "weights": model.weights,
        "bias": model.bias,
        "flat_share": model.calibration.flat_share,
        "flat_scale": model.calibration.flat_scale,
    }
    file = io.BytesIO()
    joblib.dump(state, file)
    return file.getvalue()


def _load(content: bytes, path: Path, manifest: Manifest) -> Model:
    try:
        model = _model(joblib.load(io.BytesIO(content)), manifest)
    except Exception as error:
        # The digest is right, so the manifest vouches for something that is no model of ours;
        # unpickling it may raise anything.
        raise ArtefactError(path, f"holds no model ({type(error).__name__}: {error})") from error
    if model.categories != manifest.classes:
        raise ArtefactError(path, f"its classes are not those in {MANIFEST}")
    if model.weights.shape != (len(model.vectoriser.terms), len(model.categories)):
        raise ArtefactError(path, "its weights fit neither its words nor its classes")
    return model


def _model(state: dict[str, Any], manifest: Manifest) -> Model:
    return Model(
        version=f"{manifest.name}-{manifest.sha256[:8]}",
        categories=tuple(state["classes"]),
        vectoriser=Vectoriser(state["terms"].split("\n"), np.asarray(state["idf"], np.float32)),
        weights=np.asarray(state["weights"], np.float32),
        bias=np.asarray(state["bias"], np.float32),
        calibration=Calibration(float(state["flat_share"]), float(state["flat_scale"])),
    )
