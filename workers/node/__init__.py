"""A node: the registration of a worker, and the supervisor that keeps a node's workers running."""
