"""Patterns in words, by a language model: titles and texts beside the statistics, never in their place.

A language model has read about the markets that a backtest replays, so nothing it writes may come back
as advice. Stories are therefore kept as ordinary state of the agent, which `advise`, patterns, verdicts and
promotion never read; what they say of a pattern can be checked against the numbers stored with it.
"""

from nt_memory.integrations.stories.story import Facts, Story, StoryTeller, read_story, tell_stories

__all__ = ["Facts", "Story", "StoryTeller", "read_story", "tell_stories"]
