"""The memory as an MCP server; needs `pip install 'nt-memory[mcp]'`."""

from nt_memory.apps.mcp.door import McpDoor

__all__ = ["McpDoor"]
