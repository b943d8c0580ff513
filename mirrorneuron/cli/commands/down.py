"""`mn down`: stop the embedded server and the nodes that `run`, `up` or `worker` started for it."""

from __future__ import annotations

from mirrorneuron import embedded
from mirrorneuron.cli import output, target
from mirrorneuron.cli.options import Json


def down(json: Json = False) -> None:
    """Stop the embedded server and the nodes started with it.

    Jobs and results are kept on disk; the next `mn up` or `mn run` loads them.
    """
    with target.usable_home():
        ended = embedded.down()
    if json:
        output.document({"ended": ended})
    else:
        output.line(f"stopped: {', '.join(ended)}" if ended else "nothing was running")
