import io
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import orjson
import pytest

from worker.classify import artefact
from worker.classify.artefact import ArtefactError, TrainingData
from worker.classify.model import Model

TRAINING = TrainingData(source="made.ndjson", documents=60, fingerprint="f" * 64)
TEXTS = ["soil and seed", "whisk the broth", "", "chisel"]


class Trap:
    """Runs code when it is unpickled: makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return Path.mkdir, (self.folder,)


@pytest.fixture
def directory(tmp_path: Path, model: Model) -> Path:
    artefact.write(tmp_path / "artefact", model, training=TRAINING, metrics={"whole": {"n": 9}})
    return tmp_path / "artefact"


def change(directory: Path, **fields: object) -> None:
    manifest = orjson.loads((directory / "manifest.json").read_bytes())
    (directory / "manifest.json").write_bytes(orjson.dumps({**manifest, **fields}))


def exchange(directory: Path, state: object, *, vouched: bool) -> None:
    file = io.BytesIO()
    joblib.dump(state, file)
    (directory / "model.joblib").write_bytes(file.getvalue())
    if vouched:
        change(directory, sha256=sha256(file.getvalue()).hexdigest())


def read(directory: Path) -> Model:
    """Read it, trusting whatever manifest is there."""
    return artefact.read(directory, artefact.digest(directory))


def refusal(directory: Path, trusted: str | None = None) -> str:
    with pytest.raises(ArtefactError) as caught:
        artefact.read(directory, trusted or artefact.digest(directory))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_written_is_read(directory: Path, model: Model) -> None:
    found = read(directory)
    assert found.categories == model.categories
    np.testing.assert_array_equal(found.probabilities(TEXTS), model.probabilities(TEXTS))


def test_the_manifest_says_what_it_is(directory: Path) -> None:
    manifest = artefact.read_manifest(directory)
    digest = sha256((directory / "model.joblib").read_bytes()).hexdigest()
    assert manifest.sha256 == digest
    assert manifest.classes == ("garden", "kitchen", "workshop")
    assert (manifest.training, manifest.metrics) == (TRAINING, {"whole": {"n": 9}})
    assert read(directory).version == f"made-{digest[:8]}"


def test_a_tampered_file_is_refused_before_it_is_unpickled(directory: Path, tmp_path: Path) -> None:
    exchange(directory, Trap(tmp_path / "sprung"), vouched=False)
    assert "model.joblib: its SHA-256 is not the one in manifest.json" in refusal(directory)
    assert not (tmp_path / "sprung").exists()


def test_both_files_exchanged_are_refused_before_anything_is_unpickled(
    directory: Path, tmp_path: Path
) -> None:
    trusted = artefact.digest(directory)
    exchange(directory, Trap(tmp_path / "sprung"), vouched=True)
    reason = "manifest.json: its SHA-256 is not the one to trust, see MODEL_SHA256; not loaded"
    assert reason in refusal(directory, trusted)
    assert not (tmp_path / "sprung").exists()


def test_a_manifest_that_says_anything_else_is_refused(directory: Path) -> None:
    trusted = artefact.digest(directory)
    change(directory, name="another")
    assert "manifest.json: its SHA-256" in refusal(directory, trusted)


@pytest.mark.parametrize("trusted", ["0" * 64, artefact.DEFAULT_SHA256])
def test_an_artefact_that_nobody_vouches_for_is_refused(directory: Path, trusted: str) -> None:
    assert "manifest.json: its SHA-256" in refusal(directory, trusted)


def test_the_trap_would_have_sprung(directory: Path, tmp_path: Path) -> None:
    exchange(directory, Trap(tmp_path / "sprung"), vouched=True)
    assert "model.joblib: holds no model" in refusal(directory)
    assert (tmp_path / "sprung").is_dir()


def test_one_wrong_byte_is_refused(directory: Path) -> None:
    content = bytearray((directory / "model.joblib").read_bytes())
    content[len(content) // 2] ^= 1
    (directory / "model.joblib").write_bytes(content)
    assert "SHA-256" in refusal(directory)


@pytest.mark.parametrize("version", ["1.8.2", "2.9.1", "0.1", ""])
def test_another_minor_release_of_scikit_learn_is_refused(directory: Path, version: str) -> None:
    change(directory, scikit_learn=version)
    assert f"manifest.json: made by scikit-learn {version}, installed is 1." in refusal(directory)


def test_another_patch_release_is_not(directory: Path) -> None:
    minor = artefact.read_manifest(directory).scikit_learn.rpartition(".")[0]
    change(directory, scikit_learn=f"{minor}.99")
    assert read(directory).classify(["soil"])[0].category == "garden"


def test_other_classes_are_refused(directory: Path) -> None:
    change(directory, classes=["garden", "kitchen", "cellar"])
    assert "its classes are not those in manifest.json" in refusal(directory)


def test_weights_that_do_not_fit_are_refused(directory: Path) -> None:
    state = joblib.load(directory / "model.joblib")
    exchange(directory, {**state, "weights": state["weights"][1:]}, vouched=True)
    assert "its weights fit neither its words nor its classes" in refusal(directory)


def test_something_else_than_a_model_is_refused(directory: Path) -> None:
    exchange(directory, ["no", "model"], vouched=True)
    assert "model.joblib: holds no model (TypeError" in refusal(directory)


@pytest.mark.parametrize("name", ["manifest.json", "model.joblib"])
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    assert refusal(directory) == f"{directory / name}: No such file or directory"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"format": 1}'])
def test_a_garbled_manifest_is_refused(directory: Path, content: bytes) -> None:
    (directory / "manifest.json").write_bytes(content)
    assert refusal(directory).startswith(f"{directory / 'manifest.json'}: ")


@pytest.mark.parametrize(
    ("field", "value"), [("format", 2), ("sha256", "abc"), ("classes", "garden"), ("extra", 1)]
)
def test_a_wrong_field_is_named(directory: Path, field: str, value: object) -> None:
    change(directory, **{field: value})
    assert f"manifest.json: {field}: " in refusal(directory)
