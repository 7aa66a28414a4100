"""`nt-memory bench`: what similarity search costs here, beside other indexes and databases.

Every contender is built, searched and opened again in processes of its own, on the same vectors, in
one run. `datasets` makes the vectors, `contenders` are who is measured, `processes` and `child` run
one of them apart from all others, and a module a command turns what they found into tables.
"""
