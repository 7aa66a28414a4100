"""A swarm that trades through 33 years of prices with nt-memory as its memory."""
