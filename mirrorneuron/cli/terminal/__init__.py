"""Tables and live screens on a terminal; the only modules that load rich."""
