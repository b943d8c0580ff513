"""How a worker process forks, starts threads and shuts down."""
