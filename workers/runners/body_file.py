"""The bytes of a message's body, by its content type and encoding."""

from __future__ import annotations

import base64
import binascii
import gzip
from typing import Any, Final

from mirrorneuron.message import ENCODINGS, GZIP, IDENTITY, JSON_TYPE, encode
from workers.runners.protocol import RunRefused

_NDJSON: Final = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
)


def body_bytes(body: Any, content_type: str, content_encoding: str) -> bytes:
    """Return the contents of `MIRROR_NEURON_BODY_FILE`.

    JSON types: the body as JSON. Ndjson: a list as one JSON value per line, a string unchanged. Other types are bytes:
    a string is text for `text/*`, else base64 (as `body_base64` of an emitted message stores it), or UTF-8 text if it
    is not valid base64. A body that is not a string is written as JSON for every type. Raises RunRefused for an unknown
    encoding. Source: MirrorNeuron (Elixir) lib/mirror_neuron/message.ex, `body_binary`; base64 is an addition, because
    JSON strings cannot hold bytes.
    """
    data = _typed(body, content_type.partition(";")[0].strip().lower())
    if content_encoding == IDENTITY:
        return data
    if content_encoding == GZIP:
        return gzip.compress(data, mtime=0)
    raise RunRefused(f"content_encoding {content_encoding!r} is not supported (use {' or '.join(ENCODINGS)})")


def _typed(body: Any, kind: str) -> bytes:
    if kind in _NDJSON:
        if isinstance(body, str):
            return body.encode()
        return b"".join(encode(line) + b"\n" for line in (body if isinstance(body, list) else [body]))
    if not isinstance(body, str) or kind in {JSON_TYPE, "text/json", ""} or kind.endswith("+json"):
        return encode(body)
    if kind.startswith("text/"):
        return body.encode()
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return body.encode()
