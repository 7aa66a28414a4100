"""The memory as a LangGraph store; needs `pip install 'nt-memory[langgraph]'`."""

from nt_memory.errors import UnsupportedError

try:
    from nt_memory.integrations.langgraph.store import NtMemoryStore
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] not in {"langgraph", "langchain_core"}:
        raise
    raise UnsupportedError(
        f"{error.name} is not installed: pip install 'nt-memory[langgraph]'"
    ) from None

__all__ = ["NtMemoryStore"]
