"""Speed, side by side with peers: ratios of medians, measured in one run."""
