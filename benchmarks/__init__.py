"""Postroom beside one Celery task per document, measured in turns on one machine."""
