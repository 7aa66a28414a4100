"""Proposals under any order of votes, repetitions, strangers, late arrivals and jumps of time."""

from ballot_machine import BallotMachine
from hypothesis import settings

TestBallots = BallotMachine.TestCase
TestBallots.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
