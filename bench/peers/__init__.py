"""One agent-memory workload, run on this memory and on its peers, each in a process of its own."""
