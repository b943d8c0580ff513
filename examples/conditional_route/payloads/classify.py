"""Classify a reading as low, high or normal, and emit it with its branch."""

from __future__ import annotations

import json
import os


def branch_of(reading: float, low: float, high: float) -> str:
    if reading < low:
        return "low"
    return "high" if reading > high else "normal"


def main() -> None:
    with open(os.environ["MIRROR_NEURON_INPUT_FILE"], encoding="utf-8") as file:
        reading = json.load(file)["reading"]
    branch = branch_of(reading, float(os.environ["LOW"]), float(os.environ["HIGH"]))
    body = {"reading": reading, "outputs": {"branch": branch}}
    print(json.dumps({"emit_messages": [{"type": "classified", "body": body}]}))


if __name__ == "__main__":
    main()
