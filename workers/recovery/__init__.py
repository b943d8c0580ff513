"""What keeps claims alive, what finds and repairs what a crash leaves, and the watchdogs of a worker process."""
