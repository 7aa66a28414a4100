"""Locks under any order of commands, duplicates, late arrivals and jumps of time."""

from hypothesis import settings
from lock_machine import LockMachine

TestLocks = LockMachine.TestCase
TestLocks.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)
