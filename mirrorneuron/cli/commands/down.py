"""`mn down`: end what `run` and `up` have started."""

from __future__ import annotations

from mirrorneuron import embedded
from mirrorneuron.cli import output, target
from mirrorneuron.cli.options import Json


def down(json: Json = False) -> None:
    """End the embedded server and the node that was started with it.

    Jobs and results are kept, and are there again after the next `mn up` or `mn run`.
    """
    with target.usable_home():
        ended = embedded.down()
    if json:
        output.document({"ended": ended})
    else:
        output.line(f"ended: {', '.join(ended)}" if ended else "nothing was running")
