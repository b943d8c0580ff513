"""Which variables of a node's environment a command may get by `pass_env`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

#: Variables that hold the node's own secrets: the store's URL, the broker's URL, the dashboard's login.
PRIVATE: Final = ("MIRROR_NEURON_*", "MN_*", "CELERY_*", "FLOWER_*")
#: The variables that the runner sets for each run, without their prefix. They may be named, although they are private.
SET_FOR_A_RUN: Final = frozenset(
    {f"{part}_FILE" for part in ("INPUT", "MESSAGE", "BODY", "CONTEXT", "ANSWER")}
    | {"BODY_CONTENT_TYPE", "BODY_CONTENT_ENCODING", "AGENT_TYPE", "AGENT_TEMPLATE", "JOB_ID", "AGENT_ID"}
    | {"WORKDIR", "PYTHON", "RUN_MARKER"}
)


def is_private(name: str) -> bool:
    """True if no command ever gets the node's variable *name*."""
    own = name.removeprefix("MIRROR_NEURON_").removeprefix("MN_")
    return own not in SET_FOR_A_RUN and any(fnmatchcase(name.upper(), pattern) for pattern in PRIVATE)
