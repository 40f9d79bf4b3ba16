"""Draw where the processor's time goes: `python -m benchmarks.picture`, from the last figures.

Writes `docs/profile.svg`: a bar for documents that come one by one, and one for a full queue.
"""

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Final

import orjson

from benchmarks.pipe import RESULTS

PICTURE: Final = Path(__file__).parents[1] / "docs" / "profile.svg"

_WIDTH, _BAR, _LEFT, _TOP = 820, 44, 10, 34
_STEP: Final = 118
_NARROW: Final = 60.0
_COLOURS: Final = {
    "API": "#4e79a7",
    "RabbitMQ": "#f28e2b",
    "worker, main process": "#edc948",
    "child: classify": "#59a14f",
    "child: store": "#8cd17d",
    "child: all else": "#c7e9c0",
    "PostgreSQL": "#b07aa1",
}


def picture(figures: Mapping[str, float]) -> str:
    """Return the drawing."""
    bars = {
        f"Single documents, {figures['sustained_per_s'] / 2:,.0f} a second, in messages of"
        f" {figures['half_load_message_documents']:.0f}": _parts(figures, "half_load"),
        f"A full queue, {figures['pair_stored']:,.0f} a second, in messages of"
        f" {figures['pair_stored_message_documents']:.0f}": _parts(figures, "pair_stored"),
    }
    rows = [
        element
        for number, (title, parts) in enumerate(bars.items())
        for element in _bar(title, parts, _TOP + number * _STEP)
    ]
    height = _TOP + len(bars) * _STEP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
        ' font-family="sans-serif" font-size="13">\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>\n'
        + "\n".join(rows)
        + "\n</svg>\n"
    )


def _parts(figures: Mapping[str, float], kind: str) -> dict[str, float]:
    """Return milliseconds per document; of a child's, what its stages take alone is known."""
    children = figures[f"{kind}_children_cpu_ms"]
    parts = {
        "API": figures.get(f"{kind}_api_cpu_ms", 0.0),
        "RabbitMQ": figures[f"{kind}_rabbitmq_cpu_ms"],
        "worker, main process": figures[f"{kind}_worker_cpu_ms"],
    }
    if kind == "pair_stored":
        classify, store = figures["limit_predict_cpu_ms"], figures["limit_store_cpu_ms"]
        rest = max(0.0, children - classify - store)
        parts |= {"child: classify": classify, "child: store": store, "child: all else": rest}
    else:
        parts["child: all else"] = children
    return parts | {"PostgreSQL": figures[f"{kind}_postgres_cpu_ms"]}


def _bar(title: str, parts: Mapping[str, float], top: int) -> Iterator[str]:
    total = sum(parts.values())
    yield f'<text x="{_LEFT}" y="{top - 10}">{escape(title)}: {total:.2f} ms each</text>'
    left, line = float(_LEFT), 0
    for name, milliseconds in parts.items():
        width = (_WIDTH - 2 * _LEFT) * milliseconds / total
        if not width:
            continue
        colour = _COLOURS[name]
        yield f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>'
        label = f"{escape(name.removeprefix('child: '))} {milliseconds:.3f}"
        below = top + _BAR + 16 + 16 * (line % 2) if width < _NARROW * 2 else top + _BAR // 2 + 5
        line += width < _NARROW * 2
        yield f'<text x="{left + 3:.1f}" y="{below}">{label}</text>'
        left += width


def main() -> None:
    """Draw."""
    PICTURE.write_text(picture(orjson.loads(RESULTS.read_bytes())))


if __name__ == "__main__":
    main()
