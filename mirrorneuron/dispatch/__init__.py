"""What talks to Celery: the app, the chains built from a plan, and the result backend."""
