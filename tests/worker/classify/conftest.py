import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import orjson
import pytest

from worker.classify.corpus import Corpus
from worker.classify.model import Model
from worker.classify.train import fit

WORDS = {
    "garden": ["soil", "seed", "rose", "prune", "compost", "bulb"],
    "kitchen": ["oven", "simmer", "garlic", "knead", "whisk", "broth"],
    "workshop": ["lathe", "chisel", "solder", "clamp", "sander", "drill"],
}
COMMON = ["please", "today", "about", "with", "often", "because"]


def rows(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Return `count` documents of each class, their words drawn by a fixed seed."""
    random = Random(seed)
    return [
        {
            "category": name,
            "content": " ".join(random.choices(own, k=4) + random.choices(COMMON, k=4)),
        }
        for _ in range(count)
        for name, own in WORDS.items()
    ]


@pytest.fixture
def ndjson(tmp_path: Path) -> Callable[..., Path]:
    def write(*documents: object, name: str = "documents.ndjson") -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join(orjson.dumps(document) + b"\n" for document in documents))
        return path

    return write


@pytest.fixture(scope="session")
def documents() -> Corpus:
    made = rows(20)
    texts = [str(row["content"]) for row in made]
    return Corpus(
        "made.ndjson", list(range(1, 61)), [str(r["category"]) for r in made], {"whole": texts}
    )


@pytest.fixture(scope="session")
def model(documents: Corpus) -> Model:
    return fit(documents, "made")


@pytest.fixture(scope="session")
def data_home() -> str:
    """Return where the 20 newsgroups are; skips where they are not."""
    beside = Path(__file__).parents[3].parent / "shared" / "data" / "scikit_learn_data"
    for home in filter(None, (os.environ.get("SCIKIT_LEARN_DATA"), str(beside))):
        if any(Path(home).glob("20news-bydate*.pkz")):
            return home
    pytest.skip("NOT TESTED: the 20 newsgroups are missing; set SCIKIT_LEARN_DATA to their folder")
