from shared.messages import FOLD_LEDGER, INDEX_DOCUMENTS, MESSAGES, PURGE_TOMBSTONES
from worker.app import app
from worker.schedule import SCHEDULE


def test_every_tick_is_a_message_on_its_own_queue_that_expires_before_the_next() -> None:
    queues = {message.task: message.queue for message in MESSAGES}
    for entry in SCHEDULE.values():
        assert entry["options"]["queue"] == queues[entry["task"]]
        assert 0 < entry["options"]["expires"] <= entry["schedule"]


def test_beat_knows_the_schedule_and_every_tick_once() -> None:
    assert app.conf.beat_schedule == SCHEDULE
    tasks = sorted(entry["task"] for entry in SCHEDULE.values())
    assert tasks == sorted([FOLD_LEDGER.task, INDEX_DOCUMENTS.task, PURGE_TOMBSTONES.task])
