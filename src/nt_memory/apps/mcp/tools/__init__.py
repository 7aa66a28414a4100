"""All tools, by name."""

from nt_memory.apps.mcp.tool import Tool
from nt_memory.apps.mcp.tools import (
    consensus,
    learning,
    locks,
    messages,
    records,
    similarity,
    state,
    trajectories,
)

TOOLS: dict[str, type[Tool]] = {
    tool.called: tool
    for module in (state, similarity, trajectories, learning, records, locks, consensus, messages)
    for tool in module.TOOLS
}
