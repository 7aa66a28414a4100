"""The demo as a process an agent over a local cluster: the same agents, rules and forecasts."""
