"""Draw where the processor's time goes: `python -m benchmarks.picture`, from the last figures.

Writes `docs/profile.svg`: for documents that come one by one, and for a full queue.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import orjson

from benchmarks.pipe import RESULTS

PICTURE: Final = Path(__file__).parents[1] / "docs" / "profile.svg"

_WIDTH, _LABELS, _BARS = 760, 190, 480
_ROW, _TITLE = 24, 44

Panel = tuple[str, Mapping[str, float]]


def picture(figures: Mapping[str, float]) -> str:
    """Return the drawing: a panel each, a bar for each part."""
    rows, top = [], 0
    for title, parts in _panels(figures):
        rows += list(_draw(title, parts, top))
        top += _TITLE + _ROW * len(parts)
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + _ROW}"'
                ' font-family="sans-serif" font-size="13">'
            ),
            f'<rect width="{_WIDTH}" height="{top + _ROW}" fill="white"/>',
            *rows,
            "</svg>\n",
        ]
    )


def _panels(figures: Mapping[str, float]) -> Iterator[Panel]:
    half = {name: figures[f"half_load_{name}_cpu_ms"] for name in _PARTS}
    rate, size = figures["sustained_per_s"] / 2, figures["half_load_message_documents"]
    yield (
        f"Single documents, {rate:,.0f} a second, in messages of {size:.0f}",
        {label: half[name] for name, label in _PARTS.items()},
    )
    full = {name: figures[f"pair_stored_{name}_cpu_ms"] for name in _PARTS if name != "api"}
    classify, store = figures["limit_predict_cpu_ms"], figures["limit_store_cpu_ms"]
    yield (
        (
            f"A full queue, {figures['pair_stored']:,.0f} documents a second, in messages of"
            f" {figures['pair_stored_message_documents']:.0f}"
        ),
        {
            "RabbitMQ": full["rabbitmq"],
            "worker, main process": full["worker"],
            "child: classify": classify,
            "child: store": store,
            "child: all else": max(0.0, full["children"] - classify - store),
            "PostgreSQL": full["postgres"],
        },
    )


def _draw(title: str, parts: Mapping[str, float], top: int) -> Iterator[str]:
    total, longest = sum(parts.values()), max(parts.values())
    heading = f"{title}: {1000 * total:,.0f} µs of processor time each"
    yield f'<text x="10" y="{top + 28}" font-weight="bold">{heading}</text>'
    for number, (name, milliseconds) in enumerate(parts.items()):
        y, width = top + _TITLE + number * _ROW, _BARS * milliseconds / longest
        yield f'<text x="{_LABELS - 8}" y="{y + 14}" text-anchor="end">{name}</text>'
        yield f'<rect x="{_LABELS}" y="{y}" width="{width:.1f}" height="18" fill="#4e79a7"/>'
        yield f'<text x="{_LABELS + width + 6:.1f}" y="{y + 14}">{1000 * milliseconds:,.0f}</text>'


_PARTS: Final = {
    "api": "API",
    "rabbitmq": "RabbitMQ",
    "worker": "worker, main process",
    "children": "worker's children",
    "postgres": "PostgreSQL",
}


def main() -> None:
    """Draw."""
    PICTURE.write_text(picture(orjson.loads(RESULTS.read_bytes())))


if __name__ == "__main__":
    main()
