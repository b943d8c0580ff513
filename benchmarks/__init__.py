"""Benchmarks: ratios of medians to those of other software, measured in the same run."""
