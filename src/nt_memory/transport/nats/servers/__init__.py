"""NATS servers on this machine: found, configured, started, and stopped."""
