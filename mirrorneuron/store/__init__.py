"""The job store: every Redis key, the Lua scripts, and the typed methods that call them."""
