"""Count the words of one document and choose its most typical sentence.

The score of a sentence is the mean frequency, in the whole document, of its words that are not stop words.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter

STOP_WORDS = frozenset(
    """
    a after all and are as at back be because before by can do each every first for from had has have how in
    into is it its never no not of on one only or other others over said say says since so still than that the
    their them then they this those to two until upon was were what when which who will with would yet
    """.split()  # noqa: SIM905 (easier to read than a list)
)


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def sentences_of(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", " ".join(text.split()))


def content_words(words: list[str]) -> list[str]:
    return [word for word in words if word not in STOP_WORDS]


def summarize(document: str, text: str) -> dict:
    frequency = Counter(content_words(words_of(text)))

    def score(sentence: str) -> float:
        words = content_words(words_of(sentence))
        return sum(frequency[word] for word in words) / len(words) if words else 0.0

    return {
        "document": document,
        "words": len(words_of(text)),
        "frequency": dict(frequency.most_common(10)),
        "sentence": max(sentences_of(text), key=score),
    }


def main() -> None:
    with open(os.environ["MIRROR_NEURON_INPUT_FILE"], encoding="utf-8") as file:
        body = json.load(file)
    summary = summarize(body["document"], body["text"])
    print(json.dumps({"emit_messages": [{"type": "document_summary", "body": summary}]}))


if __name__ == "__main__":
    main()
