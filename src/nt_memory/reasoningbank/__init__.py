"""Trajectories, verdicts, patterns and the advice drawn from them."""
