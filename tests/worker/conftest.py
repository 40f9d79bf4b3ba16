import pytest

from tests.stack import processes

__all__ = ["processes"]

# The worker's modules read the settings when they are imported. Nothing is ever opened there:
# tests put a database of their own into the runtime.
with pytest.MonkeyPatch.context() as environment:
    environment.setenv("DATABASE_URL", "postgresql://nobody@nowhere.invalid/nothing")
    environment.setenv("BROKER_URL", "amqp://nobody@nowhere.invalid//")
    import worker.app  # noqa: F401
