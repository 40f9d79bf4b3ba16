import pytest

from worker.classify import artefact, corpus
from worker.classify.evaluate import measure
from worker.classify.model import Model


@pytest.fixture(scope="module")
def shipped() -> Model:
    return artefact.read()


def test_it_matches_its_manifest(shipped: Model) -> None:
    manifest = artefact.read_manifest(artefact.DEFAULT)
    assert shipped.version == f"20newsgroups-{manifest.sha256[:8]}"
    assert len(shipped.categories) == 20
    assert manifest.training.documents == 11_314


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in artefact.DEFAULT.iterdir()) <= 15e6


def test_it_knows_a_hockey_post(shipped: Model) -> None:
    (prediction,) = shipped.classify(["The goalie was pulled and the Penguins won the playoffs"])
    assert prediction.category == "rec.sport.hockey"
    assert prediction.confidence > 0.8


def test_it_is_unsure_of_texts_without_a_known_word(shipped: Model) -> None:
    predictions = shipped.classify(["", "?!", "a" * 2**20, "\U0001f642"])
    assert all(0 < prediction.confidence < 0.2 for prediction in predictions)


@pytest.mark.newsgroups
@pytest.mark.parametrize(("variant", "accuracy"), [("whole", 0.862), ("stripped", 0.73)])
def test_it_is_as_good_as_promised_on_the_official_test_split(
    shipped: Model, data_home: str, variant: str, accuracy: float
) -> None:
    posts = corpus.newsgroups("test", data_home, variant)
    report = measure(shipped, posts.variants[variant], posts.labels)
    assert report.n == 7532
    assert report.accuracy >= accuracy
    assert report.expected_calibration_error <= 0.05
    manifest = artefact.read_manifest(artefact.DEFAULT)
    assert report.summary() == pytest.approx(manifest.metrics[variant], abs=2e-4)
