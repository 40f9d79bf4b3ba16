"""An outside issuer that changes its keys, goes away, or answers with something else."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from api.issuer import AGAIN_SECONDS, Issuer, Trusted
from api.verified import Verified
from shared.access import Caller, Scope
from shared.errors import IssuerUnavailable
from tests.issuer import AUDIENCE, LocalIssuer, ec_key, public_jwk, rsa_key

ONE, TWO = rsa_key(), ec_key()
MIRA = Caller("mira", frozenset({Scope.DOCUMENTS_READ}))


class Clock:
    """A clock that only tests move."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


Test = Callable[[LocalIssuer, Issuer, Clock], Awaitable[None]]


@pytest.fixture
def outside() -> Iterator[LocalIssuer]:
    with LocalIssuer() as outside:
        outside.publish(one=ONE)
        yield outside


def run(test: Test, outside: LocalIssuer) -> None:
    async def main() -> None:
        clock = Clock()
        trusted = Trusted(outside.url, AUDIENCE, outside.keys_url)
        await test(outside, Issuer(trusted, clock), clock)

    asyncio.run(main())


def test_a_new_key_is_fetched_when_a_token_names_it(outside: LocalIssuer) -> None:
    async def test(outside: LocalIssuer, issuer: Issuer, clock: Clock) -> None:
        old = outside.token("one")
        assert issuer.known(old) is None
        assert await issuer.find(old) == MIRA
        assert issuer.known(old) == MIRA
        assert await issuer.find(old) == MIRA
        assert outside.asked == 1

        outside.publish(one=ONE, two=TWO)
        new = outside.token("two")
        for _ in range(3):  # too soon after the last time
            assert await issuer.find(new) is None
        assert outside.asked == 1
        clock.now += AGAIN_SECONDS
        assert await issuer.find(new) == MIRA
        assert await issuer.find(old) == MIRA
        assert outside.asked == 2

    run(test, outside)


def test_many_who_wait_for_the_keys_fetch_them_once(outside: LocalIssuer) -> None:
    async def test(outside: LocalIssuer, issuer: Issuer, _: Clock) -> None:
        tokens = [outside.token("one", jti=str(number)) for number in range(20)]
        found = await asyncio.gather(*map(issuer.find, tokens))
        assert found == [MIRA] * len(tokens)
        assert outside.asked == 1

    run(test, outside)


def test_a_key_that_was_withdrawn_is_believed_no_longer(outside: LocalIssuer) -> None:
    async def test(outside: LocalIssuer, issuer: Issuer, _: Clock) -> None:
        token = outside.token("one")
        assert await issuer.find(token) == MIRA
        outside.publish(two=TWO)
        await issuer.refresh()
        assert issuer.known(token) is None
        assert await issuer.find(token) is None
        assert await issuer.find(outside.token("two")) == MIRA

    run(test, outside)


def test_while_it_is_away_known_keys_are_good_and_others_may_be(outside: LocalIssuer) -> None:
    async def test(outside: LocalIssuer, issuer: Issuer, clock: Clock) -> None:
        await issuer.refresh()
        outside.stop()
        clock.now += AGAIN_SECONDS
        with pytest.raises(IssuerUnavailable):
            await issuer.refresh()
        assert await issuer.find(outside.token("one")) == MIRA
        outside.publish(one=ONE, two=TWO)
        for _ in range(3):
            with pytest.raises(IssuerUnavailable):
                await issuer.find(outside.token("two"))
        outside.start()
        with pytest.raises(IssuerUnavailable):  # too soon to ask again
            await issuer.find(outside.token("two"))
        clock.now += AGAIN_SECONDS
        assert await issuer.find(outside.token("two")) == MIRA

    run(test, outside)


@pytest.mark.parametrize(
    "published",
    [None, [], "keys", {}, {"keys": []}, {"keys": "x"}, {"keys": [1]}, {"keys": [{"kty": "?"}]},
     {"keys": [], "more": "x" * (1 << 20)}],
    ids=lambda published: str(published)[:30],
)  # fmt: skip
def test_an_answer_without_keys_changes_nothing(outside: LocalIssuer, published: Any) -> None:
    async def test(outside: LocalIssuer, issuer: Issuer, _: Clock) -> None:
        await issuer.refresh()
        outside.published = published
        with pytest.raises(IssuerUnavailable):
            await issuer.refresh()
        assert await issuer.find(outside.token("one")) == MIRA

    run(test, outside)


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_only_keys_for_such_signatures_are_taken(outside: LocalIssuer) -> None:
    async def test(outside: LocalIssuer, issuer: Issuer, _: Clock) -> None:
        small = rsa_key(1_024)
        outside.publish(one=ONE, small=small)
        outside.published = {
            "keys": [
                public_jwk(ONE, "encryption", use="enc"),
                public_jwk(ONE, "longer", alg="RS512"),
                public_jwk(small, "small"),
                {"kty": "oct", "kid": "shared", "alg": "HS256", "k": "c2VjcmV0"},
                public_jwk(ONE, "one", use="sig", alg="RS256"),
            ]
        }
        assert await issuer.find(outside.token("one")) == MIRA
        assert await issuer.find(outside.token("small")) is None
        for name in ("encryption", "longer", "shared"):
            outside.keys[name] = ONE
            assert await issuer.find(outside.token(name)) is None

    run(test, outside)


def test_keys_come_from_where_the_settings_say(outside: LocalIssuer) -> None:
    async def test(outside: LocalIssuer, issuer: Issuer, _: Clock) -> None:
        with LocalIssuer() as elsewhere:
            elsewhere.publish(one=ONE)
            outside.moved_to = elsewhere.keys_url
            with pytest.raises(IssuerUnavailable):
                await issuer.find(outside.token("one"))
            assert elsewhere.asked == 0

    run(test, outside)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.verified._MOST", 3)
    verified: Verified[int] = Verified(now=lambda: 10.0)
    for number in range(5):
        verified.keep(str(number), number, until=11.0)
    verified.keep("ended", 5, until=10.0)
    found = [verified.get(token) for token in ("0", "1", "2", "3", "4", "ended")]
    assert found == [None, None, None, 3, 4, None]
