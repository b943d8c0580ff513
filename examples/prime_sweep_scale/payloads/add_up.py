"""Add up the results of all ranges and complete the job with the total."""

from __future__ import annotations

import json
import os


def main() -> None:
    with open(os.environ["MIRROR_NEURON_INPUT_FILE"], encoding="utf-8") as file:
        ranges = json.load(file)["messages"]
    output = {
        "prime_count": sum(found["count"] for found in ranges),
        "largest": max((found["largest"] for found in ranges if found["largest"] is not None), default=None),
        "ranges": len(ranges),
        "limit": max(found["end"] for found in ranges),
    }
    print(json.dumps({"complete_job": output}))


if __name__ == "__main__":
    main()
