"""Documents made of a few words each, alike enough to real ones to fall into several categories."""

import itertools
import random

_TOPICS = (
    "space shuttle orbit nasa launch moon satellite rocket",
    "hockey goalie playoffs puck team season ice league",
    "windows driver printer dos microsoft file manager font",
    "doctor patient disease medicine infection treatment diet pain",
    "church god faith bible christ prayer belief scripture",
    "engine car brakes dealer mileage ford tires clutch",
    "encryption key clipper chip privacy government escrow des",
    "israel arab peace war palestinian border treaty army",
)


def texts(count: int, seed: int) -> list[str]:
    """Return `count` different texts, the same ones for the same seed."""
    choose = random.Random(seed)
    topics = itertools.islice(itertools.cycle(_TOPICS), count)
    return [
        f"{' '.join(choose.choices(topic.split(), k=12))} number {seed} {index}"
        for index, topic in enumerate(topics)
    ]
