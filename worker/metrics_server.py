"""Tells Prometheus a worker's metrics, in a thread of its main process.

A child that is forked meanwhile inherits no lock that it needs: children count without any (see
`worker.metrics`), and leave Prometheus's library alone.
"""

import os
from collections.abc import Iterator
from time import time
from typing import Any, ClassVar

import structlog
from celery import bootsteps
from celery.worker import state
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.messages import MAINTAIN_QUEUE
from worker.runtime import Runtime

logger = structlog.get_logger(__name__)


class _Present(Collector):
    """What can be told at any moment, and needs no counting."""

    def __init__(self, runtime: Runtime) -> None:
        self._children = runtime.settings.children
        queues = runtime.settings.worker_queues.split(",")
        self._queues = [each for each in queues if each != MAINTAIN_QUEUE]  # ticks tell no time

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        text = "processes that classify and store"
        yield GaugeMetricFamily("postroom_worker_children", text, self._children)
        text = "age of the oldest message that this worker holds: it is the first of its queue"
        ages = GaugeMetricFamily("postroom_oldest_message_seconds", text, labels=["queue"])
        oldest = _oldest()
        for queue in self._queues:
            ages.add_metric([queue], max(0, time() - oldest[queue]) if queue in oldest else 0)
        yield ages


def _oldest() -> dict[str, float]:
    """Return when the oldest message of each queue was published, of those that this worker holds.

    The broker gives the oldest one first, so no message that waits is older than all that are held
    by the workers of its queue.
    """
    oldest: dict[str, float] = {}
    for request in _held():
        queue = request.delivery_info.get("routing_key")
        sent = (request.message.properties or {}).get("timestamp")
        if isinstance(queue, str) and isinstance(sent, int):
            oldest[queue] = min(sent, oldest.get(queue, sent))
    return oldest


def _held() -> list[Any]:
    while True:
        try:
            return list(state.reserved_requests)
        except RuntimeError:  # the main thread has just taken or finished one
            continue


class TellMetrics(bootsteps.StartStopStep):
    """Runs the server in each worker that has a port for it."""

    requires = ("celery.worker.components:Pool",)  # the children are there before the thread
    runtime: ClassVar[Runtime]

    def include_if(self, parent: Any) -> bool:  # noqa: ARG002  # Celery's signature
        """Whether there is a port."""
        return self.runtime.settings.worker_metrics_port != 0

    def start(self, parent: Any) -> None:  # noqa: ARG002  # Celery's signature
        """Start it; a worker goes on working without."""
        settings = self.runtime.settings
        registry = CollectorRegistry()
        registry.register(self.runtime.metrics)
        registry.register(_Present(self.runtime))
        ProcessCollector(registry=registry)
        try:
            server, _ = start_http_server(
                settings.worker_metrics_port, settings.worker_metrics_host, registry
            )
        except OSError as error:
            logger.error("no metrics: the port cannot be had", reason=error.strerror)
            return
        # A child that outlives the main process must not keep the port from its successor.
        os.register_at_fork(after_in_child=server.socket.close)
