"""The memory as a LangGraph store; needs `pip install 'nt-memory[langgraph]'`."""

from nt_memory.errors import UnsupportedError

try:
    from nt_memory.integrations.langgraph.store import NtMemoryStore
except ModuleNotFoundError as _error:
    if _error.name is None or _error.name.partition(".")[0] not in {"langgraph", "langchain_core"}:
        raise
    raise UnsupportedError(
        f"{_error.name} is not installed: pip install 'nt-memory[langgraph]'"
    ) from None

__all__ = ["NtMemoryStore"]
