import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.worker.classify.conftest import rows
from worker.classify import artefact, train
from worker.classify.corpus import Corpus

Write = Callable[..., Path]


def run(*arguments: object) -> int:
    return train.main([str(argument) for argument in arguments])


def test_trains_on_ndjson_and_measures_on_a_test_file(
    ndjson: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, test = ndjson(*rows(20)), ndjson(*rows(5, seed=1), name="test.ndjson")
    assert run("--data", data, "--test", test, "--output", tmp_path / "own") == 0
    manifest = artefact.read_manifest(tmp_path / "own")
    assert (manifest.name, manifest.training.documents) == ("own", 60)
    assert manifest.training.source == "documents.ndjson"
    assert manifest.metrics["whole"]["n"] == 15
    assert manifest.metrics["whole"]["accuracy"] == 1
    printed = capsys.readouterr().out
    assert "accuracy    1.0000" in printed
    (digest,) = re.findall(
        rf"MODEL_DIR={tmp_path / 'own'} MODEL_SHA256=([0-9a-f]+)$", printed, re.MULTILINE
    )
    assert artefact.read(tmp_path / "own", digest).classify(["garlic"])[0].category == "kitchen"


def test_trains_on_csv_with_other_fields_and_holds_out_a_fifth(tmp_path: Path) -> None:
    with (tmp_path / "own.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "number", "kind"])
        writer.writerows([r["content"], i, r["category"]] for i, r in enumerate(rows(10)))
    fields = ("--text-field", "text", "--label-field", "kind")
    output = tmp_path / "model"
    assert run("--data", tmp_path / "own.csv", *fields, "--output", output, "--name", "mine") == 0
    manifest = artefact.read_manifest(output)
    assert (manifest.name, manifest.metrics["whole"]["n"]) == ("mine", 6)
    assert manifest.training.documents == 30


def test_two_classes_are_enough(ndjson: Write, tmp_path: Path) -> None:
    data = ndjson(*(row for row in rows(12) if row["category"] != "garden"))
    assert run("--data", data, "--output", tmp_path / "own") == 0
    model = artefact.read(tmp_path / "own", artefact.digest(tmp_path / "own"))
    kitchen, workshop = model.classify(["simmer garlic broth", "drill clamp lathe"])
    assert (kitchen.category, workshop.category) == ("kitchen", "workshop")
    assert min(kitchen.confidence, workshop.confidence) > 0.7


def test_both_models_of_a_pair_agree_on_which_of_two_classes_is_meant(documents: Corpus) -> None:
    two = documents.take(i for i, label in enumerate(documents.labels) if label != "garden")
    scores = train.fit_pair(two).scores(["simmer garlic broth", "drill clamp lathe"])
    assert scores.argmax(axis=2).tolist() == [[0, 1], [0, 1]]


def test_two_documents_of_each_class_are_enough(
    ndjson: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--data", ndjson(*rows(2)), "--output", tmp_path / "own") == 0
    assert artefact.read_manifest(tmp_path / "own").metrics == {}
    assert "not measured" in capsys.readouterr().out


def test_training_twice_gives_the_same_file(ndjson: Write, tmp_path: Path) -> None:
    data = ndjson(*rows(20))
    for name in ("one", "two"):
        assert run("--data", data, "--output", tmp_path / name) == 0
    one, two = (artefact.read_manifest(tmp_path / name) for name in ("one", "two"))
    assert one.sha256 == two.sha256
    assert one.training == two.training


X, Y = {"content": "soil seed", "category": "x"}, {"content": "oven broth", "category": "y"}
BAD: dict[str, tuple[list[dict[str, str]], str]] = {
    "no field": ([X, X, {"content": "a"}], "documents.ndjson:3: no field 'category'"),
    "empty text": ([X, {"content": "", "category": "x"}], "documents.ndjson:2: 'content' is empty"),
    "one class": ([X, X], "documents.ndjson: there is only one class (x)"),
    "lonely": ([X, X, Y], "documents.ndjson:3: the only example of class 'y'"),
    "no words": ([{**X, "content": "?"}] * 2 + [{**Y, "content": "!"}] * 2, "too few words"),
}


@pytest.mark.parametrize(("documents", "reason"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_clear_line(
    documents: list[dict[str, str]],
    reason: str,
    ndjson: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--data", ndjson(*documents), "--output", tmp_path / "own") == 2
    errors = capsys.readouterr().err
    assert reason in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "own").exists()


def test_a_missing_file_or_data_set_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--data", tmp_path / "no.csv", "--output", tmp_path / "own") == 2
    assert run("--dataset", "20newsgroups", "--data-home", tmp_path, "--output", tmp_path) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"train: {tmp_path / 'no.csv'}: No such file or directory"
    assert second.startswith(f"train: 20newsgroups: not in {tmp_path}")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--data", "d.csv"],
        ["--data", "d.csv", "--dataset", "20newsgroups"],
        ["--dataset", "20newsgroups", "--test", "t.csv"],
        ["--dataset", "other"],
    ],
)
def test_wrong_arguments_end_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2


def test_blocks_are_equal_and_consecutive_in_each_class() -> None:
    classes = np.array([0, 1, 0, 0, 1, 0, 0, 0])
    assert train.blocks(classes).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_held_out_documents_are_not_seen_and_come_with_all_variants() -> None:
    texts = [f"text {i}" for i in range(20)]
    variants = {"whole": texts, "stripped": [text.upper() for text in texts]}
    documents = Corpus("s", list(range(20)), ["a"] * 15 + ["b"] * 3 + ["c"] * 2, variants)
    rest, held = train.hold_out(documents)
    assert sorted(rest.lines + held.lines) == list(range(20))
    assert sorted(held.labels) == ["a", "a", "a", "b"]
    for part in (rest, held):
        assert part.variants["whole"] == [f"text {i}" for i in part.lines]
        assert part.variants["stripped"] == [f"TEXT {i}" for i in part.lines]


def test_scores_are_those_of_documents_not_seen(documents: Corpus) -> None:
    # A word that stands in one document only says its class to nobody who has not read it.
    marked = Corpus(
        "s",
        documents.lines,
        documents.labels,
        {"whole": [f"mark{i} please" for i in range(len(documents))]},
    )
    scores, truth = train.unseen_scores(marked)
    assert scores.shape == (2, len(documents), 3)
    assert len(np.unique(scores.round(6), axis=1)[0]) <= train.BLOCKS
    assert sorted(truth.tolist()) == [0] * 20 + [1] * 20 + [2] * 20


def test_the_blend_finds_the_calibration_that_made_the_labels() -> None:
    random = np.random.default_rng(1)
    true = train.Blend.of(np.array([0.5, 1.5, -1.5, -0.5]))
    scores = random.normal(size=(2, 20_000, 4))
    odds = true.probabilities(scores)
    truth = (odds.cumsum(axis=1) < random.random((20_000, 1))).sum(axis=1)
    fitted = train.fit_blend(scores, truth)
    np.testing.assert_allclose(fitted.probabilities(scores), odds, atol=0.03)
