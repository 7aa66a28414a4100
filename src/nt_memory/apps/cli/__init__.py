"""The command `nt-memory`."""
