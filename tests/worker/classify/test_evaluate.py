from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest

from tests.worker.classify.conftest import rows
from worker.classify import artefact, evaluate
from worker.classify.artefact import TrainingData
from worker.classify.model import Model

Write = Callable[..., Path]


@pytest.fixture
def directory(tmp_path: Path, model: Model) -> Path:
    training = TrainingData(source="made", documents=60, fingerprint="f" * 64)
    artefact.write(tmp_path / "artefact", model, training=training, metrics={})
    return tmp_path / "artefact"


def run(*arguments: object) -> int:
    """Run the command; a directory that is there is trusted."""
    trusted = [
        f"--sha256={artefact.digest(each)}"
        for each in arguments
        if isinstance(each, Path) and each.is_dir()
    ]
    return evaluate.main([*map(str, arguments), *trusted])


def test_json_has_all_figures(
    directory: Path, ndjson: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = {"content": "soil and seed", "category": "attic"}
    assert run(directory, "--data", ndjson(*rows(3, seed=2), unknown), "--json") == 0
    report = orjson.loads(capsys.readouterr().out)
    assert report["model_version"] == artefact.read(directory, artefact.digest(directory)).version
    assert (report["n"], report["accuracy"]) == (10, 0.9)
    assert report["documents_per_second"] > 0
    assert 0 < report["expected_calibration_error"] < 1
    assert report["classes"] == {
        "attic": {"precision": 0, "recall": 0, "f1": 0, "support": 1},
        "garden": {"precision": 0.75, "recall": 1, "f1": pytest.approx(6 / 7), "support": 3},
        "kitchen": {"precision": 1, "recall": 1, "f1": 1, "support": 3},
        "workshop": {"precision": 1, "recall": 1, "f1": 1, "support": 3},
    }
    assert report["macro_f1"] == pytest.approx((0 + 6 / 7 + 1 + 1) / 4)


def test_for_people_there_is_a_table(
    directory: Path, ndjson: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ndjson(*({"t": r["content"], "l": r["category"]} for r in rows(3, seed=2)))
    assert run(directory, "--data", data, "--text-field", "t", "--label-field", "l") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "accuracy    1.0000" in lines
    assert lines[-1].split() == ["workshop", "1.000", "1.000", "1.000", "3"]


def test_bad_input_is_one_clear_line(
    directory: Path, ndjson: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(directory, "--data", ndjson({"content": "a"})) == 2
    assert run(directory / "no", "--data", ndjson(*rows(1))) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("documents.ndjson:1: no field 'category'")
    assert second.endswith("manifest.json: No such file or directory")


def test_a_model_that_nobody_vouches_for_is_not_loaded(
    directory: Path, ndjson: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(directory), "--data", str(ndjson(*rows(1)))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "manifest.json: its SHA-256 is not the one to trust" in line


@pytest.mark.parametrize("arguments", [["m"], ["m", "--data", "d.csv", "--stripped"]])
def test_wrong_arguments_end_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("confidence", "correct", "expected"),
    [
        ([1.0, 1.0], [True, True], 0),
        ([1.0, 1.0], [True, False], 0.5),
        ([0.5, 0.5], [True, False], 0),
        # Bins do not cancel each other out: 0.3 too sure in one, 0.3 too timid in another.
        ([0.3, 0.7], [False, True], 0.3),
        ([0.9, 0.9, 0.1, 0.1], [True, False, False, False], (2 * 0.4 + 2 * 0.1) / 4),
    ],
)
def test_expected_calibration_error(
    confidence: list[float], correct: list[bool], expected: float
) -> None:
    error = evaluate.expected_calibration_error(np.array(confidence), np.array(correct))
    assert error == pytest.approx(expected)
