"""Writes whose outcome somebody waits for: preferences, preconditions, patches, keys."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from shared.decide import MAX_METADATA_BYTES
from shared.revision import DAY, microseconds_now
from tests.end_to_end.conftest import Pipe
from tests.stack import ledger, poll, stored

DOCUMENTS = "/v1/documents"
ANY_WAIT = {"Prefer": "wait=20"}
MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture
def client(pipe: Pipe) -> httpx2.Client:
    return pipe.client


def path() -> str:
    """Return the path of a document that is not there."""
    return f"{DOCUMENTS}/{uuid4()}"


def put(client: httpx2.Client, where: str, content: str = "one", **headers: str) -> httpx2.Response:
    """Write a document and wait until that is done."""
    sent = ANY_WAIT | {name.replace("_", "-"): value for name, value in headers.items()}
    return client.put(where, json={"content": content}, headers=sent)


def created(client: httpx2.Client, **document: Any) -> tuple[str, str]:
    """Store a document; return its path and entity tag."""
    answer = client.post(DOCUMENTS, json={"content": "one"} | document, headers=ANY_WAIT)
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"], answer.headers["ETag"]


class TestPrefer:
    def test_a_new_document_is_answered_as_it_is_stored(self, client: httpx2.Client) -> None:
        document = {"content": "NASA launched a shuttle into orbit", "source": "forum"}
        answer = client.post(DOCUMENTS, json=document, headers={"Prefer": "wait=20"})
        assert answer.status_code == 201
        assert answer.headers["Preference-Applied"] == "wait=20"
        assert answer.json()["category"] == "sci.space"
        assert answer.headers["Location"] == f"{DOCUMENTS}/{answer.json()['id']}"
        read = client.get(answer.headers["Location"])
        assert (read.json(), read.headers["ETag"]) == (answer.json(), answer.headers["ETag"])

    def test_a_write_over_another_is_ok(self, client: httpx2.Client) -> None:
        where, tag = created(client)
        answer = put(client, where, "two")
        assert (answer.status_code, answer.json()["content"]) == (200, "two")
        assert answer.headers["ETag"] != tag
        assert put(client, where, "two").status_code == 200  # unchanged

    def test_not_to_wait_is_the_default_and_can_be_asked_for(self, client: httpx2.Client) -> None:
        answer = client.post(DOCUMENTS, json={"content": "one"})
        assert (answer.status_code, "Preference-Applied" in answer.headers) == (202, False)
        answer = client.post(
            DOCUMENTS, json={"content": "one"}, headers={"Prefer": "respond-async"}
        )
        assert answer.status_code == 202
        assert answer.headers["Preference-Applied"] == "respond-async"

    @pytest.mark.parametrize(
        "value", ["wait=soon", "wait=-1", "wait", "return=minimal", "", "=", "wait=½", ";,=;"]
    )
    def test_what_cannot_be_heeded_is_passed_over(self, client: httpx2.Client, value: str) -> None:
        answer = client.post(
            DOCUMENTS, json={"content": "one"}, headers={b"Prefer": value.encode("latin-1")}
        )
        assert (answer.status_code, "Preference-Applied" in answer.headers) == (202, False)

    def test_preferences_in_any_notation(self, client: httpx2.Client) -> None:
        for value in ("Wait=7", 'return=minimal, wait="7"', "respond-async , wait = 7; x=1"):
            answer = client.post(DOCUMENTS, json={"content": "one"}, headers={"Prefer": value})
            assert (answer.status_code, answer.headers["Preference-Applied"]) == (201, "wait=7")

    def test_longer_waits_are_cut(self, client: httpx2.Client) -> None:
        answer = client.post(
            DOCUMENTS, json={"content": "one"}, headers={"Prefer": f"wait={10**30}"}
        )
        assert answer.headers["Preference-Applied"] == "wait=30"

    def test_each_document_of_a_batch_is_answered_with_its_outcome(
        self, client: httpx2.Client
    ) -> None:
        where, _ = created(client)
        known = where.rpartition("/")[2]
        documents = [{"content": "new"}, {"content": "two", "id": known}]
        answer = client.post(f"{DOCUMENTS}/batch", json=documents, headers=ANY_WAIT)
        assert answer.status_code == 200, answer.text
        assert [each["outcome"] for each in answer.json()["documents"]] == ["created", "replaced"]
        answer = client.post(
            f"{DOCUMENTS}/batch?atomic=false",
            json=[{"content": ""}, *documents],
            headers=ANY_WAIT,
        )
        assert answer.status_code == 207
        assert [each.get("outcome") for each in answer.json()["documents"]] == [
            None,
            "created",
            "unchanged",
        ]

    def test_when_it_takes_longer_the_answer_is_202(self, pipe: Pipe) -> None:
        pipe.stop_workers()
        try:
            start = monotonic()
            answer = pipe.client.post(
                DOCUMENTS, json={"content": "one"}, headers={"Prefer": "wait=1"}
            )
            assert (answer.status_code, answer.headers["Preference-Applied"]) == (202, "wait=1")
            assert 1 <= monotonic() - start < 3
        finally:
            pipe.start_workers()
        stored(pipe.client, answer.json()["id"])

    def test_who_waits_is_answered_when_the_api_stops(self, pipe: Pipe) -> None:
        before = ledger(pipe.client)["accepted"]
        pipe.stop_workers()
        try:
            with ThreadPoolExecutor() as threads:
                write = threads.submit(
                    pipe.client.post, DOCUMENTS, json={"content": "one"}, headers=ANY_WAIT
                )
                poll(lambda: ledger(pipe.client)["accepted"], lambda n: n > before, seconds=10)
                pipe.api.stop()
                assert write.result().status_code == 202
            pipe.api.start()
            pipe.api.wait_ready()
        finally:
            pipe.start_workers()
        stored(pipe.client, write.result().json()["id"])


class TestWaitingReads:
    def test_a_read_waits_for_a_document_on_its_way(self, client: httpx2.Client) -> None:
        where = path()
        with ThreadPoolExecutor() as threads:
            reading = threads.submit(client.get, f"{where}?wait=20")
            assert client.put(where, json={"content": "one"}).status_code == 202
            assert reading.result().json()["content"] == "one"

    def test_in_vain(self, client: httpx2.Client) -> None:
        start = monotonic()
        assert client.get(f"{path()}?wait=0.5").status_code == 404
        assert 0.5 <= monotonic() - start < 3

    def test_for_another_revision(self, client: httpx2.Client) -> None:
        where, tag = created(client)
        known = {"If-None-Match": tag}
        assert client.get(f"{where}?wait=0.2", headers=known).status_code == 304
        with ThreadPoolExecutor() as threads:
            reading = threads.submit(client.get, f"{where}?wait=20", headers=known)
            client.put(where, json={"content": "two"})
            assert reading.result().json()["content"] == "two"

    @pytest.mark.parametrize("value", ["-1", "31", "x", "nan", "inf", ""])
    def test_odd_times_are_refused(self, client: httpx2.Client, value: str) -> None:
        answer = client.get(f"{path()}?wait={value}")
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/query/wait")

    def test_a_thousand_wait_at_once(self, pipe: Pipe) -> None:
        """They hold no thread and no connection: others are answered meanwhile."""
        ids = [str(uuid4()) for _ in range(1_000)]

        async def ask() -> list[int]:
            limits = httpx2.Limits(max_connections=len(ids) + 10)
            async with httpx2.AsyncClient(
                base_url=pipe.api.url, timeout=40, limits=limits, trust_env=False
            ) as client:
                waiting = [
                    asyncio.create_task(client.get(f"{DOCUMENTS}/{each}?wait=30")) for each in ids
                ]
                others = [await client.get(path()) for _ in range(20)]
                assert {each.status_code for each in others} == {404}
                documents = [{"id": each, "content": "one"} for each in ids]
                answer = await client.post(f"{DOCUMENTS}/batch", json=documents)
                assert answer.status_code == 202
                return [each.status_code for each in await asyncio.gather(*waiting)]

        assert set(asyncio.run(ask())) == {200}


class TestReads:
    def test_a_revision_that_is_known_is_not_sent_again(self, client: httpx2.Client) -> None:
        where, tag = created(client)
        for value in (tag, f"W/{tag}", f'"x", {tag}', "*"):
            answer = client.get(where, headers={"If-None-Match": value})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["ETag"] == tag
        for value in ('"1"', '"x"', 'W/"2", "3"'):
            answer = client.get(where, headers={"If-None-Match": value})
            assert (answer.status_code, answer.headers["ETag"]) == (200, tag)

    def test_a_head_as_well(self, client: httpx2.Client) -> None:
        where, tag = created(client)
        assert client.head(where, headers={"If-None-Match": tag}).status_code == 304


class TestIfMatch:
    def test_with_the_revision_that_is_stored(self, client: httpx2.Client) -> None:
        where, tag = created(client)
        answer = put(client, where, "two", If_Match=tag)
        assert (answer.status_code, answer.json()["content"]) == (200, "two")
        refused = put(client, where, "three", If_Match=tag)
        assert refused.status_code == 412
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert client.get(where).json()["content"] == "two"

    def test_it_waits_without_being_asked_to(self, client: httpx2.Client) -> None:
        where, tag = created(client)
        answer = client.put(where, json={"content": "two"}, headers={"If-Match": tag})
        assert (answer.status_code, "Preference-Applied" in answer.headers) == (200, False)

    def test_any(self, client: httpx2.Client) -> None:
        where, _ = created(client)
        assert put(client, where, "two", If_Match="*").status_code == 200
        assert put(client, path(), "two", If_Match="*").status_code == 412

    def test_where_there_is_nothing(self, client: httpx2.Client) -> None:
        where, tag = created(client)
        assert put(client, path(), If_Match=tag).status_code == 412
        assert client.delete(where).status_code == 204
        assert put(client, where, If_Match=tag).status_code == 412

    @pytest.mark.parametrize("tag", ['"x"', '"0"', '"01"', '""', 'W/"17"', f'"{10**25}"', '"-1"'])
    def test_what_no_document_can_have_is_refused_at_once(
        self, client: httpx2.Client, tag: str
    ) -> None:
        before = ledger(client)["accepted"]
        assert put(client, path(), If_Match=tag).status_code == 412
        assert ledger(client)["accepted"] == before

    def test_a_revision_of_the_day_after_tomorrow_as_well(self, client: httpx2.Client) -> None:
        late = microseconds_now() + 2 * DAY
        assert put(client, path(), If_Match=f'"{late}"').status_code == 412

    @pytest.mark.parametrize("value", ["17", '"17" "18"', '"17', '"17", "18"', "", "x"])
    def test_odd_values_are_refused(self, client: httpx2.Client, value: str) -> None:
        answer = put(client, path(), If_Match=value)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/header/If-Match"

    def test_of_eight_racers_exactly_one_wins(self, client: httpx2.Client) -> None:
        where, tag = created(client)
        with ThreadPoolExecutor(8) as threads:
            for _ in range(10):
                answers = list(
                    threads.map(
                        lambda n, tag=tag: put(client, where, f"{n}", If_Match=tag), range(8)
                    )
                )
                assert sorted(each.status_code for each in answers) == [200, *[412] * 7]
                (winner,) = (each for each in answers if each.status_code == 200)
                read = client.get(where)
                assert read.json()["content"] == winner.json()["content"]
                tag = read.headers["ETag"]
        account = poll(lambda: ledger(client), lambda each: each["in_flight"] == 0, seconds=30)
        assert account["refused"] >= 70

    def test_patch_and_delete(self, client: httpx2.Client) -> None:
        where, tag = created(client)
        answer = client.patch(where, json={"label": "sci.med"}, headers=MERGE | {"If-Match": tag})
        assert (answer.status_code, answer.json()["category"]) == (200, "sci.med")
        for method in ("PATCH", "DELETE"):
            refused = client.request(method, where, json={}, headers=MERGE | {"If-Match": tag})
            assert refused.status_code == 412
        now = answer.headers["ETag"]
        assert client.delete(where, headers={"If-Match": now}).status_code == 204
        assert client.delete(where, headers={"If-Match": now}).status_code == 412

    def test_patch_and_delete_cannot_create(self, client: httpx2.Client) -> None:
        where, _ = created(client)
        for method in ("PATCH", "DELETE"):
            headers = MERGE | {"If-None-Match": "*"}
            answer = client.request(method, where, json={}, headers=headers)
            assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (
                422,
                "/header/If-None-Match",
            )

    def test_a_post_has_no_document_to_match(self, client: httpx2.Client) -> None:
        for name, tag in (("If-Match", '"17"'), ("If-None-Match", "*")):
            answer = client.post(DOCUMENTS, json={"content": "one"}, headers={name: tag})
            assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (
                422,
                f"/header/{name}",
            )


class TestIfNoneMatch:
    def test_of_eight_racers_exactly_one_creates(self, client: httpx2.Client) -> None:
        with ThreadPoolExecutor(8) as threads:
            for _ in range(5):
                where = path()
                answers = threads.map(
                    lambda n, where=where: put(client, where, f"{n}", If_None_Match="*"), range(8)
                )
                assert sorted(each.status_code for each in answers) == [201, *[412] * 7]

    def test_a_deleted_document_is_none(self, client: httpx2.Client) -> None:
        where, _ = created(client)
        client.delete(where)
        assert put(client, where, "again", If_None_Match="*").status_code == 201

    @pytest.mark.parametrize(
        "headers", [{"If_None_Match": '"17"'}, {"If_None_Match": "*", "If_Match": "*"}]
    )
    def test_what_makes_no_sense_is_refused(
        self, client: httpx2.Client, headers: dict[str, str]
    ) -> None:
        assert put(client, path(), **headers).status_code == 422


class TestPatch:
    def test_metadata_is_merged(self, client: httpx2.Client) -> None:
        where, tag = created(client, metadata={"a": 1, "b": {"c": 1, "d": 2}})
        answer = client.patch(
            where, json={"metadata": {"a": None, "b": {"c": 3}, "e": [None]}}, headers=MERGE
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["metadata"] == {"b": {"c": 3, "d": 2}, "e": [None]}
        assert answer.headers["ETag"] != tag
        assert client.get(where).json() == answer.json()

    def test_the_label_wins_and_can_be_cleared(self, client: httpx2.Client) -> None:
        where, _ = created(client, content="NASA launched a shuttle into orbit")
        labelled = client.patch(where, json={"label": "sci.med"}).json()
        assert (labelled["category"], labelled["category_source"]) == ("sci.med", "human")
        assert labelled["predicted_category"] == "sci.space"
        # A person's label stays whatever is written.
        assert put(client, where, "two").json()["category"] == "sci.med"
        cleared = client.patch(where, json={"label": None}).json()
        assert (cleared["category"], cleared["category_source"]) == (
            cleared["predicted_category"],
            "model",
        )
        counts = client.get("/v1/categories").json()
        assert counts["data"]

    def test_nothing_to_change_changes_nothing(self, client: httpx2.Client) -> None:
        where, tag = created(client)
        patches: list[dict[str, Any]] = [{}, {"metadata": {}}]
        for patch in patches:
            answer = client.patch(where, json=patch)
            assert (answer.status_code, answer.headers["ETag"]) == (200, tag)

    def test_a_document_that_is_not_there(self, client: httpx2.Client) -> None:
        assert client.patch(path(), json={"label": "x"}).status_code == 404

    @pytest.mark.parametrize(
        ("patch", "pointer"),
        [
            ({"metadata": None}, "/metadata"),
            ({"metadata": []}, "/metadata"),
            ({"label": ""}, "/label"),
            ({"content": "x"}, "/content"),
            ([], ""),
        ],
    )
    def test_wrong_patches_are_refused(
        self, client: httpx2.Client, patch: Any, pointer: str
    ) -> None:
        where, _ = created(client)
        answer = client.patch(where, json=patch)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)

    def test_metadata_cannot_grow_beyond_its_bound(self, client: httpx2.Client) -> None:
        half = "x" * (MAX_METADATA_BYTES * 2 // 3)
        where, tag = created(client, metadata={"a": half})
        answer = client.patch(where, json={"metadata": {"b": half}})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/metadata")
        assert client.get(where).headers["ETag"] == tag

    def test_another_type_is_refused(self, client: httpx2.Client) -> None:
        answer = client.patch(path(), content="{}", headers={"Content-Type": "text/plain"})
        assert answer.status_code == 415


class TestIdempotencyKey:
    def test_the_same_request_twice_is_done_once(self, client: httpx2.Client) -> None:
        key = {"Idempotency-Key": str(uuid4())} | ANY_WAIT
        first = client.post(DOCUMENTS, json={"content": "one"}, headers=key)
        again = client.post(DOCUMENTS, json={"content": "one"}, headers=key)
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json() == again.json()

    def test_a_late_copy_undoes_nothing(self, client: httpx2.Client) -> None:
        key = {"Idempotency-Key": str(uuid4())} | ANY_WAIT
        where = client.post(DOCUMENTS, json={"content": "one"}, headers=key).headers["Location"]
        put(client, where, "two")
        answer = client.post(DOCUMENTS, json={"content": "one"}, headers=key)
        assert (answer.status_code, answer.json()["content"]) == (200, "two")
        client.delete(where)
        assert client.post(DOCUMENTS, json={"content": "one"}, headers=key).status_code == 404
        assert client.get(where).status_code == 404

    def test_another_document_under_the_same_key(self, client: httpx2.Client) -> None:
        key = {"Idempotency-Key": f'"{uuid4()}"'} | ANY_WAIT
        where = client.post(DOCUMENTS, json={"content": "one"}, headers=key).headers["Location"]
        answer = client.post(DOCUMENTS, json={"content": "two"}, headers=key)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (
            422,
            "/header/Idempotency-Key",
        )
        assert client.get(where).json()["content"] == "one"

    def test_each_document_of_a_batch_has_its_own_id(self, client: httpx2.Client) -> None:
        key = {"Idempotency-Key": str(uuid4())} | ANY_WAIT
        documents = [{"content": "one"}, {"content": "two"}, {"content": "3", "external_id": "x"}]
        answers = [
            client.post(f"{DOCUMENTS}/batch", json=documents, headers=key).json()["documents"]
            for _ in range(2)
        ]
        assert [each["id"] for each in answers[0]] == [each["id"] for each in answers[1]]
        assert [each["outcome"] for each in answers[1]] == ["unchanged"] * 3

    @pytest.mark.parametrize("key", ["", "x" * 256, "ä", '""'])
    def test_odd_keys_are_refused(self, client: httpx2.Client, key: str) -> None:
        headers = {b"Idempotency-Key": key.encode("latin-1")}
        answer = client.post(DOCUMENTS, json={"content": "one"}, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/header/Idempotency-Key"
