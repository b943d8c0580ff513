"""Benchmarks: the product as its users start it, measured in turns with other software in one run."""
