"""Memory for swarms of trading agents."""
