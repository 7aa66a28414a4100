"""`nt-memory serve`: one process that offers a memory over HTTP.

`tokens` and `settings` need nothing beyond the package; everything else is imported only once a
server is made, and needs the extra `server`.
"""
