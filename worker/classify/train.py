"""Train a model: `python -m worker.classify.train --dataset 20newsgroups`.

On own data: `--data FILE --text-field NAME --label-field NAME --output DIR [--test FILE]`.

Two linear models are fitted to the same word weights: a support vector machine, good where many
words are known (whole posts), and complement naive Bayes (Rennie et al. 2003), good where few are
(bare text). They are added up to one matrix. How much each counts, and how scores become
probabilities, is fitted to scores of documents that the models had not seen.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.naive_bayes import ComplementNB
from sklearn.svm import LinearSVC

from worker.classify import artefact, corpus
from worker.classify.artefact import TrainingData
from worker.classify.corpus import Corpus, CorpusError
from worker.classify.evaluate import Report, add_data_options, measure, read_file, render
from worker.classify.model import Calibration, Model
from worker.classify.vectoriser import WORD, Vectoriser

# Chosen by the cross-validation of `unseen_scores` on the training posts, never on the test split.
SVM_PENALTY = 0.4
BAYES_SMOOTHING = 0.15
MOST_TERMS = 120_000
BLOCKS = 3

SEED = 9
HELD_OUT = 0.2


@dataclass(frozen=True, slots=True)
class Pair:
    """The two linear models over one vocabulary: `weights` (2, V, classes), `bias` (2, classes)."""

    vectoriser: Vectoriser
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]

    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the scores of both for each text, shape (2, n, classes)."""
        rows = self.vectoriser.transform(texts)
        both = zip(self.weights, self.bias, strict=True)
        return np.stack([np.asarray(rows @ weights) + bias for weights, bias in both])


@dataclass(frozen=True, slots=True)
class Blend:
    """How much each of a pair counts, shape (2,), and the calibration of their sum."""

    shares: NDArray[np.float64]
    calibration: Calibration

    @classmethod
    def of(cls, parameters: NDArray[np.float64]) -> "Blend":
        """Return the blend of four unbounded parameters."""
        flat_share, flat_scale = expit(parameters[2:]).tolist()
        return cls(np.exp(parameters[:2]), Calibration(flat_share, flat_scale))

    def sum(self, pair: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the weighted sum of a pair's weights, biases or scores, shape (2, …)."""
        total: NDArray[np.float64] = np.tensordot(self.shares, pair, axes=1)
        return total

    def probabilities(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return probabilities, shape (n, classes), for a pair's scores, shape (2, n, classes)."""
        return self.calibration.probabilities(self.sum(scores))


# What few documents leave open stays near here: log weights, then log odds, of a `Blend`.
PRIOR = np.array([1.0, 1.0, -2.0, -1.0])


def fit(documents: Corpus, name: str) -> Model:
    """Return a model trained on all variants of all documents; raises `CorpusError`."""
    documents.check_trainable()
    blend = fit_blend(*unseen_scores(documents))
    pair = fit_pair(documents)
    return Model(
        version=name,
        categories=documents.classes,
        vectoriser=pair.vectoriser,
        weights=blend.sum(pair.weights).astype(np.float32),
        bias=blend.sum(pair.bias).astype(np.float32),
        calibration=blend.calibration,
    )


def fit_pair(documents: Corpus) -> Pair:
    """Return both models fitted to all variants of the documents."""
    vectoriser = TfidfVectorizer(
        token_pattern=WORD, sublinear_tf=True, max_features=MOST_TERMS, dtype=np.float32
    )
    try:
        rows = vectoriser.fit_transform([t for texts in documents.variants.values() for t in texts])
    except ValueError as error:  # the only one it raises for strings: no words at all
        raise CorpusError(f"{documents.source}: too few words in the texts ({error})") from error
    labels = documents.labels * len(documents.variants)
    svm = LinearSVC(C=SVM_PENALTY, random_state=SEED, max_iter=10_000).fit(rows, labels)
    bayes = ComplementNB(alpha=BAYES_SMOOTHING).fit(rows, labels)
    order = np.argsort(vectoriser.idf_, kind="stable")  # common words first
    weights = np.stack([_centred(_per_class(svm.coef_)), _centred(bayes.feature_log_prob_)])
    return Pair(
        Vectoriser(vectoriser.get_feature_names_out()[order].tolist(), vectoriser.idf_[order]),
        weights.transpose(0, 2, 1)[:, order],
        np.stack([_per_class(svm.intercept_[:, None])[:, 0], np.zeros(len(bayes.classes_))]),
    )


def _per_class(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give both of two classes a row; scikit-learn's machine has only the second's."""
    return rows if len(rows) > 1 else np.vstack([-rows, rows]) / 2


def _centred(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take from each word what it adds to all classes alike: the probabilities stay the same."""
    centred: NDArray[np.float64] = rows - rows.mean(axis=0)
    return centred


def unseen_scores(documents: Corpus) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the scores (2, n, classes) of pairs that did not see the document, and its class.

    All variants of a document are held out together, and each class is cut into consecutive
    blocks, not at random: where documents come in the order of time, answers to a post then mostly
    share its block, and the held-out ones are as strange to the models as tomorrow's will be.
    """
    numbers = {label: i for i, label in enumerate(documents.classes)}
    classes = np.array([numbers[label] for label in documents.labels])
    block = blocks(classes)
    scores, truth = [], []
    for held_out in range(BLOCKS):
        unseen = np.flatnonzero(block == held_out).tolist()
        if not unseen:  # all classes have fewer documents than there are blocks
            continue
        pair = fit_pair(documents.take(np.flatnonzero(block != held_out).tolist()))
        for texts in documents.take(unseen).variants.values():
            scores.append(pair.scores(texts))
            truth.append(classes[unseen])
    return np.concatenate(scores, axis=1), np.concatenate(truth)


def blocks(classes: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the block 0..BLOCKS-1 of each document: equal consecutive parts of each class."""
    block = np.empty(len(classes), np.intp)
    for number in np.unique(classes):
        members = np.flatnonzero(classes == number)
        block[members] = np.arange(len(members)) * BLOCKS // len(members)
    return block


def fit_blend(scores: NDArray[np.float64], truth: NDArray[np.intp]) -> Blend:
    """Return the blend with the highest posterior probability for the scores' true classes."""
    rows = np.arange(len(truth))

    def loss(parameters: NDArray[np.float64]) -> float:
        right = Blend.of(parameters).probabilities(scores)[rows, truth]
        distance = float(((parameters - PRIOR) ** 2).sum()) / 2
        return (distance - float(np.log(right + 1e-12).sum())) / len(truth)

    return Blend.of(minimize(loss, PRIOR, method="L-BFGS-B").x)


def hold_out(documents: Corpus) -> tuple[Corpus, Corpus]:
    """Return documents to train with and to measure with: a random fifth of each class.

    Every class keeps two to train with; a class of two gives none.
    """
    random = np.random.default_rng(SEED)
    members = defaultdict(list)
    for i, label in enumerate(documents.labels):
        members[label].append(i)
    held: set[int] = set()
    for label in documents.classes:
        count = min(max(round(HELD_OUT * len(members[label])), 1), len(members[label]) - 2)
        held.update(random.permutation(members[label])[: max(count, 0)].tolist())
    everything = range(len(documents))
    return documents.take(i for i in everything if i not in held), documents.take(sorted(held))


def train(documents: Corpus, test: Corpus | None, name: str, directory: Path) -> dict[str, Report]:
    """Train on `documents`, measure on `test`, write the artefact, return a report per variant.

    Without `test` a model trained on four fifths is measured on the last; the one that is written
    is trained on all documents.
    """
    print(f"training on {len(documents)} documents in {len(documents.classes)} classes", flush=True)
    model = fit(documents, name)
    measured = model
    if test is None:
        rest, test = hold_out(documents)
        print(f"training again without {len(test)} of them, to measure on these", flush=True)
        measured = fit(rest, name) if len(test) else model
    reports = {v: measure(measured, t, test.labels) for v, t in test.variants.items() if t}
    training = TrainingData(
        source=Path(documents.source).name,
        documents=len(documents),
        fingerprint=documents.fingerprint,
    )
    metrics = {variant: report.summary() for variant, report in reports.items()}
    manifest = artefact.write(directory, model, training=training, metrics=metrics)
    print(f"wrote {directory} ({manifest.sha256[:8]})")
    # In a file beside them it would vouch for nothing: it would be exchanged together with them.
    if directory == artefact.DEFAULT:
        print(f"to ship it, in artefact.py: DEFAULT_SHA256 = {artefact.digest(directory)!r}")
    else:
        print(f"to use it: MODEL_DIR={directory} MODEL_SHA256={artefact.digest(directory)}")
    return reports


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 with one line on standard error for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m worker.classify.train")
    add_data_options(parser)
    parser.add_argument("--test", type=Path, metavar="FILE", help="measure on this, not a fifth")
    parser.add_argument("--output", type=Path, metavar="DIR", help="directory of the artefact")
    parser.add_argument("--name", help="the model's name; default: the output directory's")
    options = parser.parse_args(argv)
    if options.data and not options.output:
        parser.error("--data needs --output")
    if options.dataset and options.test:
        parser.error("--test goes with --data")
    directory = options.output or artefact.DEFAULT
    try:
        reports = train(*_documents(options), options.name or directory.resolve().name, directory)
    except (CorpusError, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    if not reports:
        print("too few documents to hold any out: not measured")
    for variant, report in reports.items():
        print(f"\n{variant}\n{render(report)}")
    return 0


def _documents(options: argparse.Namespace) -> tuple[Corpus, Corpus | None]:
    if options.data:
        test = read_file(options.test, options) if options.test else None
        return read_file(options.data, options), test
    variants = ("whole", "stripped")
    return (
        corpus.newsgroups("train", options.data_home, *variants),
        corpus.newsgroups("test", options.data_home, *variants),
    )


if __name__ == "__main__":
    sys.exit(main())
