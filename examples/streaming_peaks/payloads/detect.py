"""Find the peaks of a stream, one chunk in each run, and complete the job after the last chunk.

A peak is a record at or above THRESHOLD that is higher than the previous record and not lower than the next one.
The agent's state keeps the last two records, so that a peak between two chunks is found too.
"""

from __future__ import annotations

import gzip
import json
import os

INITIAL_STATE = {"seq": 0, "samples": 0, "tail": [], "peaks": []}  # `seq` is the number of the next chunk


def read_json(variable: str) -> dict:
    with open(os.environ[variable], encoding="utf-8") as file:
        return json.load(file)


def read_records() -> list[dict]:
    opener = gzip.open if os.environ["MIRROR_NEURON_BODY_CONTENT_ENCODING"] == "gzip" else open
    with opener(os.environ["MIRROR_NEURON_BODY_FILE"], "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def find_peaks(records: list[dict], threshold: float) -> list[dict]:
    return [
        here
        for before, here, after in zip(records, records[1:], records[2:])  # noqa: B905 (shorter on purpose)
        if before["value"] < here["value"] >= after["value"] and here["value"] >= threshold
    ]


def main() -> None:
    stream = read_json("MIRROR_NEURON_MESSAGE_FILE")["stream"]
    state = read_json("MIRROR_NEURON_CONTEXT_FILE")["agent_state"] or INITIAL_STATE
    if stream["seq"] != state["seq"]:
        raise SystemExit(f"expected chunk {state['seq']}, got chunk {stream['seq']}")
    chunk = read_records()
    records = state["tail"] + chunk
    found = find_peaks(records, float(os.environ["THRESHOLD"]))
    samples, peaks = state["samples"] + len(chunk), state["peaks"] + found
    answer = {
        "next_state": {"seq": stream["seq"] + 1, "samples": samples, "tail": records[-2:], "peaks": peaks},
        "events": [{"type": "peak_detected", "payload": peak} for peak in found],
    }
    if stream["last"]:
        answer["complete_job"] = {
            "stream_id": stream["stream_id"],
            "chunks": stream["seq"] + 1,
            "samples": samples,
            "peak_count": len(peaks),
            "peaks": peaks,
        }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
