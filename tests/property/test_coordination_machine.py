"""Coordination in a real replica, with entries that come late, in another order, and again."""

from coordination_machine import CoordinationMachine
from hypothesis import settings

TestCoordination = CoordinationMachine.TestCase
TestCoordination.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
