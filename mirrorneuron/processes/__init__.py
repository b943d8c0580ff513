"""Processes of this machine: their identity, and those found by their environment."""
