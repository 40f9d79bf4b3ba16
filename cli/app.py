"""The commands: import, export, classify, status."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from cli import uploading
from cli.client import Api, err, fail, one_line_errors, out
from cli.uploading import FORMATS, SUFFIXES, Source

app = typer.Typer(
    help="Send documents to Postroom, and get them back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_URL: Final = "http://127.0.0.1:8000"
_SECONDS: Final = 60.0
_STATUS_OK: Final = 200

Url = Annotated[str, typer.Option(envvar="POSTROOM_URL", help="where the API is")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(help="NDJSON, JSON array or CSV, also .gz; - for stdin")],
    *,
    url: Url = _URL,
    format_: Annotated[
        str | None, typer.Option("--format", help="ndjson, json or csv; by the file's name if not")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Idempotency-Key; made of path, size and time if not given")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="of CSV")] = None,
    quote: Annotated[str | None, typer.Option(help="of CSV; empty for none")] = None,
    map_: Annotated[
        list[str] | None, typer.Option("--map", help="CSV's column for a field: content=body")
    ] = None,
    rejects: Annotated[
        Path | None, typer.Option(help="where rejected records go, to be corrected and sent again")
    ] = None,
    allow_rejects: Annotated[
        bool, typer.Option("--allow-rejects", help="exit with 0 though records were rejected")
    ] = False,
    wait: Annotated[bool, typer.Option(help="wait until all documents are processed")] = True,
) -> None:
    """Import a file of any size. Called again, it goes on where it was cut off.

    Exits with 0 if all was taken, 1 if records were rejected or documents failed, 2 if it did not
    come to an end.
    """
    source = _source(
        file, format_=format_, key=key, delimiter=delimiter, quote=quote, mapping=map_ or []
    )
    api = Api(url, _SECONDS)
    try:
        with one_line_errors(api):
            found = uploading.send(api, source, err)
            if wait:
                found = uploading.follow(api, found, err)
            uploading.show(api, found, err)
            if rejects is not None and found["rejected"]:
                uploading.save_rejects(api, found, rejects)
    except KeyboardInterrupt:
        fail("stopped; the same command goes on where it was", 130)
    lost = found["failed"] + found["dead"]
    sys.exit(1 if lost or (found["rejected"] and not allow_rejects) else 0)


@app.command()
def export(
    url: Url = _URL,
    format_: Annotated[str, typer.Option("--format", help="ndjson or csv")] = "ndjson",
    output: Annotated[
        Path | None, typer.Option(help="a file; standard output if not given")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="a filter of the list: category=sci.space")
    ] = None,
) -> None:
    """Write all documents, or those that filters choose."""
    params = [("format", format_), *_pairs("--where", where or [])]
    api = Api(url, _SECONDS)
    with one_line_errors(api):
        chunks = api.download("/v1/documents/export", params)
        if output is None:
            for chunk in chunks:
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return
        # A file that is there is whole.
        part = output.with_name(f"{output.name}.part")
        with part.open("wb") as opened:
            for chunk in chunks:
                opened.write(chunk)
        part.replace(output)


@app.command()
def classify(
    text: Annotated[str, typer.Argument(help="the text; - for standard input")],
    url: Url = _URL,
    explain: Annotated[bool, typer.Option("--explain", help="show the words that decided")] = False,
    json_: AsJson = False,
) -> None:
    """Say which category a text has; nothing is stored."""
    content = sys.stdin.read() if text == "-" else text
    api = Api(url, _SECONDS)
    with one_line_errors(api):
        found = api.post("/v1/classify", {"content": content, "explain": explain})
    if json_:
        _print_json(found)
        return
    for result in found["results"]:
        out.print(f"[bold]{escape(str(result['category']))}[/] {result['confidence']:.1%}")
        for name, value in result.items():
            if name not in {"category", "confidence"} and value is not None:
                out.print(f"{name}: {_told(value)}", markup=False, highlight=False)


@app.command()
def status(url: Url = _URL, json_: AsJson = False) -> None:
    """Show whether Postroom is ready, its parts, its account, and the imports under way."""
    api = Api(url, _SECONDS)
    with one_line_errors(api):
        code, ready = api.ask("/readyz")
        _, parts = api.ask("/v1/status")
        _, account = api.ask("/v1/ledger")
        imports = [
            each
            for state in ("receiving", "processing")
            for each in api.ask(f"/v1/imports?status={state}")[1].get("data", [])
        ]
        stats_code, stats = api.ask("/v1/stats")
    found = {"ready": ready, "status": parts, "ledger": account, "imports": imports}
    if stats_code == _STATUS_OK:
        found["stats"] = stats
    if json_:
        _print_json(found)
    else:
        _print_status(found)
    sys.exit(0 if code == _STATUS_OK else 1)


def _source(
    file: str,
    *,
    format_: str | None,
    key: str | None,
    delimiter: str | None,
    quote: str | None,
    mapping: list[str],
) -> Source:
    path = None if file == "-" else Path(file)
    if path is not None and not path.is_file():
        fail(f"{file} is no file")
    suffixes = [each.lower() for each in (path.suffixes if path else [])]
    packed = suffixes[-1:] == [".gz"]
    kind = format_ or next((SUFFIXES[each] for each in suffixes[::-1] if each in SUFFIXES), None)
    if kind not in FORMATS:
        fail(f"say --format: one of {', '.join(FORMATS)}")
    params = {f"map.{field}": column for field, column in _pairs("--map", mapping)}
    params |= {
        name: value
        for name, value in (("delimiter", delimiter), ("quote", quote))
        if value is not None
    }
    if key is None and path is not None:
        key = uploading.stable_key(path)
    return Source(path, kind, packed, key, params)


def _pairs(option: str, given: list[str]) -> list[tuple[str, str]]:
    pairs = [each.partition("=") for each in given]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        fail(f"{option} {wrong[0]}: must be NAME=VALUE")
    return [(name, value) for name, _, value in pairs]


def _print_json(found: Any) -> None:
    print(json.dumps(found, indent=2, ensure_ascii=False))


def _print_status(found: dict[str, Any]) -> None:
    state = ", ".join(f"{name} {value}" for name, value in found["ready"].items())
    out.print(f"ready: {state}", markup=False, highlight=False)
    parts = {
        name: each
        for name, each in found["status"].items()
        if isinstance(each, dict) and "status" in each
    }
    if parts:
        table = Table("part", "status", "")
        for name, each in parts.items():
            table.add_row(name, each["status"], escape(each["detail"] or ""))
        out.print(table)
    if found["ledger"]:
        table = Table("account", "documents")
        for name, value in found["ledger"].items():
            if isinstance(value, int):
                table.add_row(name, f"{value:,}")
        out.print(table)
    if found["imports"]:
        table = Table("import", "status", "accepted", "rejected", "in flight", "done", "left")
        for each in found["imports"]:
            table.add_row(
                each["id"],
                each["status"],
                f"{each['accepted']:,}",
                f"{each['rejected']:,}",
                f"{each['in_flight']:,}",
                "" if each["progress"] is None else f"{each['progress']:.0%}",
                "" if each["eta_seconds"] is None else f"{each['eta_seconds']} s",
            )
        out.print(table)
    for name, value in found.get("stats", {}).items():
        if isinstance(value, int | float | str):
            out.print(f"{name}: {value}", markup=False, highlight=False)


def _told(value: Any) -> str:
    """Return a part of an answer in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_told, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
