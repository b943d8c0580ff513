"""Renew claims, repair what a crash leaves behind, and stop worker processes that no longer make progress."""
