"""Measure a model: `python -m worker.classify.evaluate MODEL --data FILE [--json]`.

`--dataset 20newsgroups [--stripped]` measures on the official test split instead of a file.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import orjson
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support

from worker.classify import artefact, corpus
from worker.classify.artefact import ArtefactError
from worker.classify.corpus import Corpus, CorpusError
from worker.classify.model import Model, Prediction

BATCH = 256


@dataclass(frozen=True, slots=True)
class ClassReport:
    """Precision, recall and F1 (0..1) of one class, and how many documents truly have it."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True)
class Report:
    """How good a model is on N documents: fractions are 0..1, classes are those of the documents.

    A document with a label that the model does not know counts as a wrong answer.
    """

    model_version: str
    n: int
    accuracy: float
    macro_f1: float
    expected_calibration_error: float
    documents_per_second: float
    classes: dict[str, ClassReport]

    def summary(self) -> dict[str, float]:
        """Return the figures that do not depend on the machine, for a manifest."""
        return {
            "n": self.n,
            "accuracy": round(self.accuracy, 4),
            "macro_f1": round(self.macro_f1, 4),
            "expected_calibration_error": round(self.expected_calibration_error, 4),
        }


def expected_calibration_error(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], *, bins: int = 15
) -> float:
    """Return the mean distance of confidence and accuracy over `bins` bins of equal width.

    Each bin weighs as many documents as it holds (Naeini et al. 2015, Guo et al. 2017).
    """
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    surplus = np.bincount(bin_of, confidence - correct, minlength=bins)
    return float(np.abs(surplus).sum() / len(confidence))


def measure(model: Model, texts: Sequence[str], labels: Sequence[str]) -> Report:
    """Classify `texts` in batches of 256 and compare with their `labels`; neither may be empty."""
    started = perf_counter()
    predictions: list[Prediction] = []
    for first in range(0, len(texts), BATCH):
        predictions += model.classify(texts[first : first + BATCH])
    seconds = perf_counter() - started
    predicted = [prediction.category for prediction in predictions]
    correct = np.array(predicted) == np.array(labels)
    classes = _per_class(labels, predicted)
    return Report(
        model_version=model.version,
        n=len(texts),
        accuracy=float(correct.mean()),
        macro_f1=sum(report.f1 for report in classes.values()) / len(classes),
        expected_calibration_error=expected_calibration_error(
            np.array([prediction.confidence for prediction in predictions]), correct
        ),
        documents_per_second=len(texts) / seconds,
        classes=classes,
    )


def _per_class(labels: Sequence[str], predicted: Sequence[str]) -> dict[str, ClassReport]:
    names = sorted(set(labels))
    columns = precision_recall_fscore_support(labels, predicted, labels=names, zero_division=0)
    return {
        name: ClassReport(float(precision), float(recall), float(f1), int(support))
        for name, precision, recall, f1, support in zip(names, *columns, strict=True)
    }


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which documents: `--dataset` or `--data` and how to read it."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", choices=["20newsgroups"], help="a data set known by name")
    source.add_argument("--data", type=Path, metavar="FILE", help="NDJSON or CSV, UTF-8")
    parser.add_argument("--data-home", metavar="DIR", help="scikit-learn's data folder")
    parser.add_argument("--format", choices=corpus.FORMATS, help="default: by the extension")
    parser.add_argument("--text-field", default="content", metavar="NAME", help="%(default)s")
    parser.add_argument("--label-field", default="category", metavar="NAME", help="%(default)s")


def read_file(path: Path, options: argparse.Namespace) -> Corpus:
    """Read a file of documents as the options of `add_data_options` say."""
    return corpus.read(
        path,
        text_field=options.text_field,
        label_field=options.label_field,
        file_format=options.format,
    )


def render(report: Report) -> str:
    """Return the report as lines for a person to read."""
    width = max(len(name) for name in report.classes)
    head = [
        f"model       {report.model_version}",
        f"documents   {report.n}",
        f"accuracy    {report.accuracy:.4f}",
        f"macro F1    {report.macro_f1:.4f}",
        f"calibration {report.expected_calibration_error:.4f} expected error, 15 bins",
        f"speed       {report.documents_per_second:.0f} documents/s",
        "",
        f"{'':{width}}  precision  recall  f1     support",
    ]
    return "\n".join(
        head
        + [
            f"{name:{width}}  {c.precision:<9.3f}  {c.recall:<6.3f}  {c.f1:.3f}  {c.support:>7}"
            for name, c in report.classes.items()
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 with one line on standard error for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m worker.classify.evaluate")
    parser.add_argument("model", type=Path, help="directory of the artefact")
    add_data_options(parser)
    parser.add_argument(
        "--sha256",
        default=artefact.DEFAULT_SHA256,
        metavar="DIGEST",
        help="of its manifest, as training printed it; default: the shipped model's",
    )
    parser.add_argument("--stripped", action="store_true", help="posts without headers and quotes")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(argv)
    if options.stripped and not options.dataset:
        parser.error("--stripped goes with --dataset")
    try:
        report = _evaluate(options)
    except (ArtefactError, CorpusError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    print(orjson.dumps(asdict(report)).decode() if options.json else render(report))
    return 0


def _evaluate(options: argparse.Namespace) -> Report:
    model = artefact.read(options.model, options.sha256)
    if options.dataset:
        variant = "stripped" if options.stripped else "whole"
        documents = corpus.newsgroups("test", options.data_home, variant)
    else:
        variant, documents = "whole", read_file(options.data, options)
    return measure(model, documents.variants[variant], documents.labels)


if __name__ == "__main__":
    sys.exit(main())
