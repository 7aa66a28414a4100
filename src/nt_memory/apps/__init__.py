"""Programs over `MemorySystem`: they parse, call it and render."""
