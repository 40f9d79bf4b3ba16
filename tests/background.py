"""An event loop in a thread of its own, for what goes on while a fault is made."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

ResultT = TypeVar("ResultT")


class Background:
    """Runs coroutines; `run` waits for one, `spawn` does not. Use it as a context manager."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Return what `work` returns."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _cancel_all(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
