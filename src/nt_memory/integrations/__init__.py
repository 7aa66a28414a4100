"""The memory in the manner of other libraries; each needs its own extra."""
