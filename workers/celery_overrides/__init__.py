"""Where a node's Celery does something else than Celery does by default."""
