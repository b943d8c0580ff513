"""The Celery side: the app, the chains built from a plan, and the result backend."""
