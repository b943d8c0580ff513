"""Changes to Celery's default behaviour in a worker."""
