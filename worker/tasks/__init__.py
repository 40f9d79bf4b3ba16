"""What the worker does with each message: one module a verb. A task never imports a task."""
