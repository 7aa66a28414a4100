"""The transport of a cluster: entries are ordered by JetStream, messages carried by core NATS."""
