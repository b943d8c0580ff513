"""`python -m mirrorneuron.cli`: the same as `mn`."""

from __future__ import annotations

from mirrorneuron.cli import main

main()
