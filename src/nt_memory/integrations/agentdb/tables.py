"""The tables of an AgentDB file that are exchanged, as the npm package `agentdb` 1.6.1 makes them.

Embeddings are BLOBs of little-endian float32, of any length, in tables of their own. The package opens a
file with `CREATE TABLE IF NOT EXISTS`, so it adds to a file of ours whatever else it wants.

Source: `dist/schemas/schema.sql`, `dist/schemas/frontier-schema.sql` and `ReasoningBank` of the package
(MIT licence).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    Attributes:
        name: Of the table.
        columns: Its definition, without the id.
        structured: Columns that hold JSON.
        known_at: Columns that say since when a row is known, in seconds; the first that has a number.
        embeddings: The table of its embeddings; empty: it has none.
        owner: The column there that names the row.
        has_model: Whether that table names the embedding model too.
    """

    name: str
    columns: tuple[str, ...]
    structured: tuple[str, ...] = ("metadata",)
    known_at: tuple[str, ...] = ("created_at",)
    embeddings: str = ""
    owner: str = ""
    has_model: bool = True

    def definition(self) -> str:
        """SQL that makes the table, and that of its embeddings, if they are missing."""
        found = (
            f"CREATE TABLE IF NOT EXISTS {self.name} "
            f"(id INTEGER PRIMARY KEY AUTOINCREMENT, {', '.join(self.columns)});"
        )
        if not self.embeddings:
            return found
        model = ", embedding_model TEXT DEFAULT 'all-MiniLM-L6-v2'" if self.has_model else ""
        return (
            f"{found}\nCREATE TABLE IF NOT EXISTS {self.embeddings} "
            f"({self.owner} INTEGER PRIMARY KEY, embedding BLOB NOT NULL{model}, "
            f"FOREIGN KEY({self.owner}) REFERENCES {self.name}(id) ON DELETE CASCADE);"
        )


_NOW = "INTEGER NOT NULL DEFAULT (strftime('%s', 'now'))"

TABLES: tuple[Table, ...] = (
    Table(
        "episodes",
        (
            *(f"ts {_NOW}", "session_id TEXT NOT NULL", "task TEXT NOT NULL", "input TEXT"),
            *("output TEXT", "critique TEXT", "reward REAL DEFAULT 0.0"),
            *("success BOOLEAN DEFAULT 0", "latency_ms INTEGER", "tokens_used INTEGER"),
            *("tags TEXT", "metadata JSON", f"created_at {_NOW}"),
        ),
        structured=("tags", "metadata"),
        known_at=("ts", "created_at"),
        embeddings="episode_embeddings",
        owner="episode_id",
    ),
    Table(
        "skills",
        (
            *("name TEXT UNIQUE NOT NULL", "description TEXT", "signature JSON NOT NULL"),
            *("code TEXT", "success_rate REAL DEFAULT 0.0", "uses INTEGER DEFAULT 0"),
            *("avg_reward REAL DEFAULT 0.0", "avg_latency_ms INTEGER DEFAULT 0"),
            *("created_from_episode INTEGER", f"created_at {_NOW}", f"updated_at {_NOW}"),
            *("last_used_at INTEGER", "metadata JSON"),
        ),
        structured=("signature", "metadata"),
        embeddings="skill_embeddings",
        owner="skill_id",
    ),
    Table(
        "reasoning_patterns",
        (
            *("ts INTEGER DEFAULT (strftime('%s', 'now'))", "task_type TEXT NOT NULL"),
            *("approach TEXT NOT NULL", "success_rate REAL NOT NULL DEFAULT 0.0"),
            *("uses INTEGER DEFAULT 0", "avg_reward REAL DEFAULT 0.0", "tags TEXT"),
            "metadata TEXT",
        ),
        structured=("tags", "metadata"),
        known_at=("ts",),
        embeddings="pattern_embeddings",
        owner="pattern_id",
        has_model=False,
    ),
    Table(
        "notes",
        (
            *("title TEXT", "text TEXT NOT NULL", "summary TEXT"),
            *("note_type TEXT DEFAULT 'general'", "importance REAL DEFAULT 0.5"),
            *("access_count INTEGER DEFAULT 0", "last_accessed_at INTEGER"),
            *(f"created_at {_NOW}", f"updated_at {_NOW}", "metadata JSON"),
        ),
        embeddings="note_embeddings",
        owner="note_id",
    ),
    Table(
        "facts",
        (
            *("subject TEXT NOT NULL", "predicate TEXT NOT NULL", "object TEXT NOT NULL"),
            *("source_type TEXT", "source_id INTEGER", "confidence REAL DEFAULT 1.0"),
            *(f"created_at {_NOW}", "expires_at INTEGER", "metadata JSON"),
        ),
    ),
    Table(
        "skill_links",
        (
            *("parent_skill_id INTEGER NOT NULL", "child_skill_id INTEGER NOT NULL"),
            *("relationship TEXT NOT NULL", "weight REAL DEFAULT 1.0", "metadata JSON"),
            "UNIQUE(parent_skill_id, child_skill_id, relationship)",
        ),
    ),
    Table(
        "causal_edges",
        (
            *("from_memory_id INTEGER NOT NULL", "from_memory_type TEXT NOT NULL"),
            *("to_memory_id INTEGER NOT NULL", "to_memory_type TEXT NOT NULL"),
            *("similarity REAL NOT NULL DEFAULT 0.0", "uplift REAL", "confidence REAL DEFAULT 0.5"),
            *("sample_size INTEGER", "evidence_ids TEXT", "experiment_ids TEXT"),
            *("confounder_score REAL", "mechanism TEXT", f"created_at {_NOW}"),
            *(f"updated_at {_NOW}", "last_validated_at INTEGER", "metadata JSON"),
        ),
        structured=("evidence_ids", "experiment_ids", "metadata"),
    ),
)
BY_NAME = {table.name: table for table in TABLES}
