"""List the documents and emit one message for each of them."""

from __future__ import annotations

import json
from pathlib import Path


def main() -> None:
    documents = sorted(Path("documents").glob("*.txt"))
    messages = [
        {"type": "document", "body": {"document": path.stem, "text": path.read_text(encoding="utf-8")}}
        for path in documents
    ]
    print(json.dumps({"emit_messages": messages}))


if __name__ == "__main__":
    main()
