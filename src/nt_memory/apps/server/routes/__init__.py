"""The routes, by what they are about. Each reads a request, calls the memory and spells the result."""
