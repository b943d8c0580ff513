"""Helpers that tests share: private servers, real nodes, graphs, waiting for conditions."""
