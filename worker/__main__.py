"""Start a worker: `python -m worker`."""

from worker.app import app, settings


def main() -> None:
    """Run until told to stop."""
    pool = ["--pool=solo"] if settings.solo else [f"--concurrency={settings.worker_concurrency}"]
    app.worker_main(
        [
            "worker",
            f"--hostname={settings.worker_name}@%h",
            f"--queues={settings.worker_queues}",
            f"--loglevel={settings.log_level}",
            "--without-mingle",
            "--without-gossip",
            *pool,
        ]
    )


if __name__ == "__main__":
    main()
