"""Emit a signal as gzip-compressed ndjson chunks of one stream.

The input is {"stream_id", "samples", "chunk_size"}. The body of an ndjson message is the list of its records;
the runtime compresses it.
"""

from __future__ import annotations

import json
import math
import os


def signal(samples: int) -> list[dict]:
    """Return the sum of a slow and a fast wave. Deterministic."""
    return [
        {"t": t, "value": round(10 * math.sin(2 * math.pi * t / 24) + 3 * math.sin(2 * math.pi * t / 7), 3)}
        for t in range(samples)
    ]


def main() -> None:
    with open(os.environ["MIRROR_NEURON_INPUT_FILE"], encoding="utf-8") as file:
        order = json.load(file)
    records, size = signal(order["samples"]), order["chunk_size"]
    chunks = [records[at : at + size] for at in range(0, len(records), size)]
    messages = [
        {
            "type": "telemetry",
            "body": chunk,
            "content_type": "application/x-ndjson",
            "content_encoding": "gzip",
            "stream": {"stream_id": order["stream_id"], "seq": seq, "last": seq == len(chunks) - 1},
        }
        for seq, chunk in enumerate(chunks)
    ]
    print(json.dumps({"emit_messages": messages}))


if __name__ == "__main__":
    main()
