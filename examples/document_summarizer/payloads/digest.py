"""Combine the summaries of all documents and complete the job with the digest."""

from __future__ import annotations

import json
import os
from collections import Counter


def main() -> None:
    with open(os.environ["MIRROR_NEURON_INPUT_FILE"], encoding="utf-8") as file:
        summaries = json.load(file)["messages"]
    summaries.sort(key=lambda summary: summary["document"])  # they arrive in any order
    frequency = Counter()
    for summary in summaries:
        frequency.update(summary["frequency"])
    common = sorted(frequency, key=lambda word: (-frequency[word], word))  # words of equal frequency in alphabetical order
    output = {
        "documents": len(summaries),
        "total_words": sum(summary["words"] for summary in summaries),
        "common_words": common[:5],
        "digest": [f"{summary['document']}: {summary['sentence']}" for summary in summaries],
    }
    print(json.dumps({"complete_job": output}))


if __name__ == "__main__":
    main()
