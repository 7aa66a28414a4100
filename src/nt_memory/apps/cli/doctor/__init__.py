"""`nt-memory doctor`: is this machine fit for a store, is the store well, what can be done."""
