"""A memory behind `nt-memory serve`, with the calls that the commands make.

`RemoteMemory` answers them as `MemorySystem` does: the same values, the same errors. So a command does
not know where its memory is, and one set of tests holds for both.
"""
