"""Where records end, whatever pieces a body comes in."""

import gzip
import zlib
from collections.abc import Callable, Iterable
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.imports import csv_records, records
from api.imports.csv_records import Dialect, Rows
from api.imports.records import (
    KEPT_BYTES,
    MAX_RECORD_BYTES,
    TOO_LONG,
    JsonArray,
    Lines,
    NotThisFormat,
    Record,
    Records,
)
from api.imports.unpack import PIECE_BYTES, Body

MAKERS: list[Callable[[], Records]] = [
    Lines,
    JsonArray,
    lambda: Rows(Dialect()),
    lambda: Rows(Dialect(";", "")),
]


def cut(maker: Callable[[], Records], pieces: Iterable[bytes]) -> list[Record]:
    splitter = maker()
    found = [record for piece in pieces for record in splitter.feed(piece)]
    return [*found, *splitter.finish()]


def raws(maker: Callable[[], Records], body: bytes) -> list[bytes]:
    return [each.raw for each in cut(maker, [body])]


def test_lines() -> None:
    found = cut(Lines, [b"one\ntwo\r\n\n  \nfive"])
    assert [(each.line, each.raw, each.end) for each in found] == [
        (1, b"one", 4),
        (2, b"two\r", 9),
        (5, b"five", 17),
    ]
    assert cut(Lines, []) == cut(Lines, [b""]) == []


def test_elements_of_an_array() -> None:
    body = b' [ {"a": "x,]\\"}{"}, [1, 2] ,, "s\\\\", 3 ] \n'
    found = cut(JsonArray, [body])
    assert [(each.line, each.raw.strip()) for each in found] == [
        (1, b'{"a": "x,]\\"}{"}'),
        (2, b"[1, 2]"),
        (4, b'"s\\\\"'),
        (5, b"3"),
    ]
    assert all(body[each.end - 1 : each.end] in {b",", b"]"} for each in found)


def test_what_is_wrong_in_one_element_leaves_the_others_as_they_are() -> None:
    found = raws(JsonArray, b'[{"a":1}}, {"b":nan}, oops, {"c":1], {"d":1}]')
    assert [each.strip() for each in found] == [
        b'{"a":1}}',
        b'{"b":nan}',
        b"oops",
        b'{"c":1]',
        b'{"d":1}',
    ]


@pytest.mark.parametrize(
    ("body", "raw", "error"),
    [
        (b'[{"a":1},{"b', b'{"b', "ends early: the array is not closed"),
        (b'[{"a":1},', b"", "ends early: the array is not closed"),
        (b'[{"a":1}]]', b"]", "comes after the end of the array"),
        (b'[{"a":1}] {}', b" {}", "comes after the end of the array"),
    ],
)
def test_an_array_that_ends_otherwise(body: bytes, raw: bytes, error: str) -> None:
    first, last = cut(JsonArray, [body])
    assert (first.raw, first.error) == (b'{"a":1}', None)
    assert (last.line, last.raw, last.error) == (2, raw, error)


@pytest.mark.parametrize("body", [b"", b"  ", b"{}", b"x", b'"["'])
def test_what_is_no_array(body: bytes) -> None:
    with pytest.raises(NotThisFormat):
        cut(JsonArray, [body])


def test_rows() -> None:
    body = b'a,b\r\n1,"x\ny ""q"", z"\r\n\n"",\n5,6" disk'
    found = cut(lambda: Rows(Dialect()), [body])
    assert [(each.line, each.raw) for each in found] == [
        (1, b"a,b"),
        (2, b'1,"x\ny ""q"", z"'),
        (5, b'"",'),
        (6, b'5,6" disk'),
    ]
    assert Dialect().fields(found[1].raw) == ["1", 'x\ny "q", z']
    assert [each.end for each in found][-1] == len(body)


def test_a_quote_that_is_never_closed_costs_one_line() -> None:
    found = cut(lambda: Rows(Dialect()), [b'a,b\n"1,2\n3,4\n5,6\n'])
    assert [(each.line, each.raw, each.error) for each in found] == [
        (1, b"a,b", None),
        (2, b'"1,2', "has a quote that is not closed"),
        (3, b"3,4", None),
        (4, b"5,6", None),
    ]


def test_a_quote_that_is_closed_in_another_row_costs_its_line() -> None:
    found = cut(lambda: Rows(Dialect()), [b'a,b\n"1,2\n3,4\n5,"6"\n7,8\n'])
    assert [(each.line, each.error is None) for each in found] == [
        (1, True),
        (2, False),
        (3, True),
        (4, True),
        (5, True),
    ]
    assert found[3].raw == b'5,"6"'


def test_a_row_of_several_lines_that_is_only_too_wide_is_refused_as_a_whole() -> None:
    found = raws(lambda: Rows(Dialect()), b'a,b\n"1\n3,4\n",2,3\n5,6\n')
    assert found == [b"a,b", b'"1\n3,4\n",2,3', b"5,6"]


def test_rows_are_not_read_anew_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these lines leaves a quote open, whether one was open before or not."""
    monkeypatch.setattr(csv_records, "MAX_RECORD_BYTES", 60_000)
    monkeypatch.setattr(csv_records, "_SPARE_BYTES", 600_000)
    body = b"a,b,c\n" + b'a","\n' * 40_000
    found = cut(lambda: Rows(Dialect()), [body])
    assert found[-1].end == len(body)
    assert all(each.error for each in found[1:])
    assert len(found) < 100


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("size", [1_000, 1 << 20])
def test_a_record_that_is_too_long_is_cut(
    maker: Callable[[], Records], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = maker is JsonArray
    long = (b'"' if array else b"") + b"x" * (20 << 20) + (b'"' if array else b"")
    body = (b"[1," if array else b"a\n") + long + (b",2]" if array else b"\n2\n")
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    first, second, third = cut(maker, pieces)
    assert (second.line, second.error, second.truncated) == (2, TOO_LONG, True)
    assert second.raw == long[:KEPT_BYTES]
    assert (third.line, third.raw, third.end) == (3, b"2", len(body))
    assert first.error is third.error is None


@given(
    body=st.lists(
        st.sampled_from(
            [b"\n", b"\r\n", b",", b'"', b'""', b"\\", b"[", b"]", b"{", b"}", b"a", b";", b"\xff"]
        ),
        max_size=60,
    ).map(b"".join),
    cuts=st.lists(st.integers(0, 60)),
    which=st.integers(0, len(MAKERS) - 1),
)
def test_pieces_make_no_difference(body: bytes, cuts: list[int], which: int) -> None:
    """Nor is a byte lost or told twice, but for what is between records."""
    if which == 1:
        body = b"[" + body
    places = sorted({0, len(body), *(at for at in cuts if at < len(body))})
    pieces = [body[start:stop] for start, stop in pairwise(places)]
    whole = cut(MAKERS[which], [body])
    assert cut(MAKERS[which], pieces) == whole
    assert [each.end for each in whole] == sorted(each.end for each in whole)
    lines = [each.line for each in whole]
    assert lines == sorted(set(lines))
    assert all(each.end <= len(body) for each in whole)


@given(st.lists(st.dictionaries(st.text(), st.text() | st.booleans()), max_size=5))
def test_an_array_of_anything_comes_apart_into_it(values: list[dict[str, str | bool]]) -> None:
    body = orjson.dumps(values, option=orjson.OPT_INDENT_2) if values else b"[]"
    assert [orjson.loads(each) for each in raws(JsonArray, body)] == values


def unpacked(body: bytes, size: int, *, packed: bool) -> tuple[bytes, Body]:
    unpacker = Body(packed=packed)
    found = [
        piece for at in range(0, len(body), size) for piece in unpacker.feed(body[at : at + size])
    ]
    found += unpacker.finish()
    assert all(len(piece) <= PIECE_BYTES for piece in found)
    return b"".join(found), unpacker


TEXT = bytes(range(256)) * 3_000


@pytest.mark.parametrize("size", [1, 10, 1 << 20])
def test_gzip_of_several_members(size: int) -> None:
    body = gzip.compress(TEXT[:1_000]) + gzip.compress(b"") + gzip.compress(TEXT)
    found, unpacker = unpacked(body + bytes(100), size, packed=True)
    assert found == TEXT[:1_000] + TEXT
    assert unpacker.damage is None


def test_a_bomb_is_unpacked_in_pieces() -> None:
    body = gzip.compress(bytes(50 << 20))
    found, unpacker = unpacked(body, len(body), packed=True)
    assert len(found) == 50 << 20
    assert unpacker.damage is None


@pytest.mark.parametrize("size", [7, 1 << 20])
def test_gzip_with_something_after_it(size: int) -> None:
    found, unpacker = unpacked(gzip.compress(TEXT) + b"rubbish", size, packed=True)
    assert found == TEXT
    assert unpacker.damage == "has bytes after the end of its gzip data"
    assert not unpacker.cut


def test_gzip_that_ends_early() -> None:
    body = gzip.compress(TEXT)
    found, unpacker = unpacked(body[:-9], 100, packed=True)
    assert TEXT.startswith(found)
    assert len(found) > len(TEXT) // 2
    assert unpacker.damage == "ends before its gzip data does"
    assert unpacker.cut


def test_gzip_with_a_wrong_sum_is_read_to_its_end() -> None:
    body = bytearray(gzip.compress(b"line\n" * 100))
    body[-6] ^= 1
    found, unpacker = unpacked(bytes(body), 1 << 20, packed=True)
    assert found == b"line\n" * 100
    assert unpacker.cut


@pytest.mark.parametrize("body", [b"", b"content\n", zlib.compress(b"text"), b"\x1f\x8b"])
def test_what_is_no_gzip(body: bytes) -> None:
    with pytest.raises(NotThisFormat):
        unpacked(body, 100, packed=True)


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("packed", [False, True])
def test_a_byte_order_mark_is_left_out(size: int, packed: bool) -> None:
    for text in (b"\xef\xbb\xbfab", b"ab", b"\xef\xbbab", b"", b"a"):
        if packed and not text:
            continue
        body = gzip.compress(text) if packed else text
        found, _ = unpacked(body, size, packed=packed)
        assert found == text.removeprefix(b"\xef\xbb\xbf")


def test_limits_are_as_documented() -> None:
    assert f"{MAX_RECORD_BYTES}" in records.TOO_LONG
