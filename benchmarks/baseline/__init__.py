"""What Postroom is compared with: the way the tutorials do it, one Celery task per document.

Done as well as that way allows: publisher confirms, a quorum queue, late acknowledgement, pooled
connections, the model loaded once per process, the same server for HTTP. It keeps fewer promises
than Postroom (no revisions, no account, no deletes), so it has less to do per document.
"""
