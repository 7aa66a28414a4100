"""What an adapter says of itself, as JSON: `python -m peers.about PEER`, in the peer's Python."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

from peers.adapters import adapter

if __name__ == "__main__":
    peer = adapter(sys.argv[1])
    print(
        json.dumps(
            {
                "used": peer.used,
                "acknowledged": peer.acknowledged,
                "without": peer.without,
                "as_of": peer.as_of,
                "versions": {name: version(name) for name in peer.packages},
            }
        )
    )
