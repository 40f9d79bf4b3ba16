"""Start a worker: `python -m worker`."""

from worker.app import app, settings


def main() -> None:
    """Run until told to stop."""
    # The spool's consumers share no pipe with children: one process each, as many as are started.
    spool = settings.broker_url.get_secret_value().startswith("spool://")
    pool = ["--pool=solo"] if spool else [f"--concurrency={settings.worker_concurrency}"]
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
