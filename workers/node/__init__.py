"""A runtime node: the registration of each worker, and the supervisor that restarts workers that end."""
