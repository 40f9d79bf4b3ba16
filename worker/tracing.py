"""Traces of the workers: each process that works sends its own spans.

A thread sends them, and no fork copies one: so it begins in the child.
"""

from typing import Any

from celery import signals
from opentelemetry.instrumentation.celery import CeleryInstrumentor

from shared.tracing import Tracing
from worker.runtime import Runtime


def trace(runtime: Runtime) -> None:
    """Have every process trace what it works on, from its start to its end."""
    settings = runtime.settings

    @signals.worker_process_init.connect(weak=False)
    def _begin(**_: Any) -> None:
        # What begins here, as a tick does, is not recorded: a request decides.
        tracing = Tracing.exporting(settings, settings.worker_name, share=0)
        use(runtime, tracing)

    @signals.worker_process_shutdown.connect(weak=False)
    @signals.worker_shutdown.connect(weak=False)  # of a single process, which has no children
    def _end(**_: Any) -> None:
        if runtime.tracing is not None:
            runtime.tracing.close()


def use(runtime: Runtime, tracing: Tracing) -> None:
    """Make a span of each message, within the trace that its headers name, and of its steps."""
    CeleryInstrumentor().instrument(  # type: ignore[no-untyped-call]
        tracer_provider=tracing.provider
    )
    runtime.tracing = tracing
