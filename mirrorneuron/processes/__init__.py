"""Processes of this machine: their identity, their groups, and the search for them by environment."""
