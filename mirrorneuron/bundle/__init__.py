"""Bundles: reads, validates and packs a manifest and its payloads, and plans the graph. Imports no Celery, no Redis."""
