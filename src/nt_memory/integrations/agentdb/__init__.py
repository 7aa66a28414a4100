"""AgentDB's SQLite file, read and written. The npm package has no server; its file is how it shares."""

from nt_memory.integrations.agentdb.exchange import (
    Exported,
    Imported,
    export_agentdb,
    import_agentdb,
)

__all__ = ["Exported", "Imported", "export_agentdb", "import_agentdb"]
