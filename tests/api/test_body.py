"""Reading bodies, chunk by chunk and byte by byte."""

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from fastapi import Request

from api import body
from api.errors import ContentTooLarge, Crowded, Invalid, Malformed, TooSlow, UnsupportedMediaType
from api.settings import MAX_BODY_BYTES


def request(chunks: Iterable[bytes] = (), **headers: str) -> Request:
    """Return a request whose body comes in these chunks."""
    waiting = iter(chunks)

    async def receive() -> dict[str, Any]:
        chunk = next(waiting, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "method": "POST", "path": "/"}, receive)


def read(chunks: Iterable[bytes], **headers: str) -> bytes:
    return asyncio.run(body.read(request(chunks, **headers)))


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


class TestRead:
    def test_joins_chunks(self) -> None:
        assert read([b"ab", b"", b"c"]) == b"abc"

    @pytest.mark.parametrize("size", [1, 7, 1 << 20])
    def test_unpacks_gzip_however_it_is_cut(self, size: int) -> None:
        packed = gzip.compress(b"first") + gzip.compress(b"") + gzip.compress(b" second")
        assert read(cut(packed, size), content_encoding="gzip") == b"first second"

    def test_takes_the_very_limit(self) -> None:
        text = b"x" * MAX_BODY_BYTES
        assert read([text], content_length=str(MAX_BODY_BYTES)) == text
        assert read([gzip.compress(text)], content_encoding="gzip") == text

    @pytest.mark.parametrize("encoding", ["identity", "gzip"])
    def test_refuses_one_byte_more(self, encoding: str) -> None:
        text = b"x" * (MAX_BODY_BYTES + 1)
        sent = gzip.compress(text) if encoding == "gzip" else text
        with pytest.raises(ContentTooLarge):
            read(cut(sent, 65_536), content_encoding=encoding)

    def test_unpacks_no_more_of_a_bomb_than_it_takes(self) -> None:
        packed = gzip.compress(b"\0" * (1 << 26))
        tracemalloc.start()
        try:
            with pytest.raises(ContentTooLarge):
                read(cut(packed, 1 << 14), content_encoding="gzip")
            assert tracemalloc.get_traced_memory()[1] < 3 * MAX_BODY_BYTES
        finally:
            tracemalloc.stop()

    def test_unpacks_nothing_before_all_of_it_is_there(self, monkeypatch: Any) -> None:
        def unpack(packed: bytes) -> bytes:
            raise AssertionError("unpacked")

        def chunks() -> Iterator[bytes]:
            yield gzip.compress(b"\0" * (1 << 20))
            raise ConnectionError("gone")

        monkeypatch.setattr(body, "_unzip", unpack)
        with pytest.raises(ConnectionError):
            read(chunks(), content_encoding="gzip")

    def test_waits_for_so_long_and_no_longer(self, monkeypatch: Any) -> None:
        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0)
            return {"type": "http.request", "body": b"", "more_body": True}

        monkeypatch.setattr(body, "_SECONDS", 0.05)
        sent = Request({"type": "http", "headers": [], "method": "POST", "path": "/"}, receive)
        with pytest.raises(TooSlow) as caught:
            asyncio.run(body.read(sent))
        assert caught.value.headers == {"Connection": "close"}

    def test_large_bodies_have_so_much_together(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(body, "_SMALL", 10)
        monkeypatch.setattr(body, "_LARGE_TOGETHER", 20)

        async def together() -> None:
            begun, end = asyncio.Event(), asyncio.Event()

            async def receive() -> dict[str, Any]:
                if begun.is_set():
                    await end.wait()
                    return {"type": "http.request", "body": b"", "more_body": False}
                begun.set()
                return {"type": "http.request", "body": b"x" * 25, "more_body": True}

            held = body.read(Request({"type": "http", "headers": []}, receive))
            waiting = asyncio.ensure_future(held)
            await begun.wait()
            assert await body.read(request([b"x" * 10])) == b"x" * 10
            assert await body.read(request([b"x" * 15])) == b"x" * 15
            with pytest.raises(Crowded) as caught:
                await body.read(request([b"x" * 10, b"x" * 6]))
            assert caught.value.headers == {"Retry-After": "1", "Connection": "close"}
            end.set()
            assert await waiting == b"x" * 25

        asyncio.run(together())
        assert read([b"x" * 30]) == b"x" * 30  # they have all given back what they had

    def test_counts_what_is_packed_too(self) -> None:
        """Empty gzip files, one after the other, are nothing once they are unpacked."""
        empty = gzip.compress(b"")
        packed = empty * (MAX_BODY_BYTES // len(empty) + 1)
        with pytest.raises(ContentTooLarge):
            read(cut(packed, 1 << 20), content_encoding="gzip")

    def test_refuses_an_announced_length_before_anything_is_read(self) -> None:
        with pytest.raises(ContentTooLarge):
            read([], content_length=str(MAX_BODY_BYTES + 1))
        with pytest.raises(ContentTooLarge):
            read([], content_length="9" * 5_000)

    @pytest.mark.parametrize(
        "packed",
        [
            b"",
            b"plain",
            gzip.compress(b"x")[:-1],
            gzip.compress(b"x") + gzip.compress(b"y")[:5],
            gzip.compress(b"x")[:-8] + b"\0" * 8,
            zlib.compress(b"x"),
        ],
        ids=["empty", "plain", "cut", "second member cut", "checksum", "zlib"],
    )
    def test_refuses_what_is_not_gzip(self, packed: bytes) -> None:
        with pytest.raises(Malformed, match="gzip"):
            read([packed], content_encoding="gzip")

    @pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "", "x" * 5_000])
    def test_refuses_other_encodings(self, encoding: str) -> None:
        with pytest.raises(UnsupportedMediaType, match="Content-Encoding: gzip") as caught:
            read([b"x"], content_encoding=encoding)
        assert caught.value.headers == {"Accept-Encoding": "gzip"}
        assert len(caught.value.detail) < 300


class TestMediaType:
    @pytest.mark.parametrize(
        "sent", ["application/json", "Application/JSON", "application/json; charset=utf-8"]
    )
    def test_is_known(self, sent: str) -> None:
        known = (body.JSON, body.NDJSON)
        assert body.media_type(request(content_type=sent), known) == body.JSON

    @pytest.mark.parametrize("sent", ["text/json", "application/jsonx", "*/*", "x" * 5_000])
    def test_is_refused(self, sent: str) -> None:
        with pytest.raises(UnsupportedMediaType, match="Content-Type: application/json") as caught:
            body.media_type(request(content_type=sent), (body.JSON,))
        assert len(caught.value.detail) < 300


class TestParse:
    @pytest.mark.parametrize(
        "value", [None, 1, 1.5, "x", [], {}, {"a": [{"b": "ü😀"}]}, 2**64 - 1, -(2**63)]
    )
    def test_reads_json(self, value: object) -> None:
        assert body.parse(json.dumps(value).encode()) == value
        assert body.parse_line(json.dumps(value).encode()) == (value, [])

    @pytest.mark.parametrize(
        ("text", "pointers"),
        [
            ('{"a": NaN, "b": [1, -Infinity]}', ["/a", "/b/1"]),
            ('[1e999, {"x/y": -1e999}]', ["/0", "/1/x~1y"]),
            ("9" * 5_000, [""]),
            (r'{"\ud800": "\udfff"}', [r"/\ud800", r"/\ud800"]),
        ],
    )
    def test_names_what_only_python_takes_for_json(self, text: str, pointers: list[str]) -> None:
        with pytest.raises(Invalid) as caught:
            body.parse(text.encode())
        assert sorted(each.pointer for each in caught.value.errors) == pointers
        value, errors = body.parse_line(text.encode())
        assert value is None
        assert sorted(each.pointer for each in errors) == pointers

    @pytest.mark.parametrize("text", [b"", b"{", b"[1,]", b"nul", b"\xef\xbb\xbf{}", b"[" * 9_999])
    def test_refuses_what_is_no_json(self, text: bytes) -> None:
        with pytest.raises(Malformed, match="no JSON"):
            body.parse(text)
        _, (error,) = body.parse_line(text)
        assert error.detail.startswith("is no JSON")

    def test_says_which_byte_is_not_utf8(self) -> None:
        with pytest.raises(Malformed, match="byte 1"):
            body.parse(b'"\xc3')
        _, (error,) = body.parse_line(b'"a\xff"')
        assert error.detail == "is not UTF-8: see byte 2"


def test_lines_are_numbered_with_the_blank_ones() -> None:
    assert list(body.lines(b"\na\r\n\r\n \nb")) == [(2, b"a\r\n"), (5, b"b")]
    assert list(body.lines(b"")) == []
