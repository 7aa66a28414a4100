"""What `--json` prints: one type a document. Fields are only ever added.

Times are ISO 8601 in UTC. Values are plain JSON, as `rendering.to_plain` makes them. The JSON Schema of
all of it is docs/reference/cli.schema.json.
"""

from nt_memory.apps.cli.documents.form import (
    Document,
    taken_from,
    to_builtins,
)
from nt_memory.apps.cli.documents.lessons import (
    Action,
    Advice,
    Observation,
    Outcome,
    Pattern,
    Trajectory,
    Verdict,
)
from nt_memory.apps.cli.documents.memory import (
    Agent,
    Ballot,
    Change,
    Entry,
    Forced,
    Hit,
    Lock,
    Message,
    Observed,
    Proposal,
    Published,
    Record,
    Revision,
    Standing,
    Submitted,
)
from nt_memory.apps.cli.documents.store import (
    Check,
    Compaction,
    Diagnosis,
    Export,
    Import,
    Repair,
    Snapshot,
    Stats,
    Tier,
    VectorTier,
    Verification,
)

__all__ = [
    "Action",
    "Advice",
    "Agent",
    "Ballot",
    "Change",
    "Check",
    "Compaction",
    "Diagnosis",
    "Document",
    "Entry",
    "Export",
    "Forced",
    "Hit",
    "Import",
    "Lock",
    "Message",
    "Observation",
    "Observed",
    "Outcome",
    "Pattern",
    "Proposal",
    "Published",
    "Record",
    "Repair",
    "Revision",
    "Snapshot",
    "Standing",
    "Stats",
    "Submitted",
    "Tier",
    "Trajectory",
    "VectorTier",
    "Verdict",
    "Verification",
    "taken_from",
    "to_builtins",
]
