"""Module agents: one warm child process for each bundle, and the pool that keeps them."""
