"""Celery's pool of children, with pipes that take a whole message.

The main process writes a message of a hundred documents, 200 KB, into a child's pipe. Linux's pipes
hold 64 KB: so the two took turns, each waiting for a core, four times a message. Measured with two
children on two cores: 12 to 23 percent more documents stored a second.
"""

import contextlib
import fcntl
from typing import Any, Final

from celery.concurrency import prefork
from celery.concurrency.asynpool import AsynPool

_PIPE_BYTES: Final = 1 << 20
"""As much as Linux lets anybody have."""


class _Pool(AsynPool):
    def create_process_queues(self) -> Any:
        queues = super().create_process_queues()
        with contextlib.suppress(OSError):  # a user's pipes may take 64 MB together
            fcntl.fcntl(queues[0]._writer.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)  # noqa: SLF001
        return queues


class TaskPool(prefork.TaskPool):
    """What `worker_pool` names."""

    Pool = _Pool
