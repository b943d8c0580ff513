"""Bundles: reading, validating and packing a manifest and its payloads, and planning the graph; no Celery, no Redis."""
