"""A notebook, cell by cell: no await. It looks back at what two agents did, asks what was known at
the time, and finds days like today. Runs as a script too.
"""  # noqa: D205

# %%
from datetime import timedelta

import numpy as np

from nt_memory import MemorySystem

memory = MemorySystem.open_sync("./data/notebook")

# %% Ten days of two agents: a situation, what was done, and how the book stood
rng = np.random.default_rng(7)
for day in range(10):
    for agent in ("momentum", "value"):
        situation = rng.normal(size=8)
        memory.observe(agent, situation, {"day": day, "pnl": float(situation[0])}, tags=["daily"])
        memory.put(agent, "position", {"AAPL": 10 * day})

# %% The book, and the book as it was
now = memory.get_record("value", "position")
print("now", now.value, "since", f"{now.known_at:%H:%M:%S}")
before = memory.at(now.known_at - timedelta(microseconds=1))
print("before", before.get("value", "position"))

# %% Days like today, of both agents
for hit in memory.search_similar(["momentum", "value"], np.ones(8), top_k=3, tags=["daily"]):
    print(hit.agent, hit.data["day"], round(hit.score, 2))

# %% Every position there was
history = [record.value["AAPL"] for record in memory.history("momentum", "position")]
assert history == [10 * day for day in reversed(range(10))]
print(history)

# %% A move of two keys that happens as a whole, under a lock
with memory.lock("rebalance") as token, memory.transaction(fence=token) as tx:
    tx.put("value", "position", {"AAPL": 0})
    tx.put("value", "cash", 17_500.0)
print("moved at revision", tx.revision)

# %%
memory.close()
