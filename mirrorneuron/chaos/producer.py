"""The stage's client: a process that submits jobs when they are due, and may be killed while it does.

Run as `python -m mirrorneuron.chaos.producer FOLDER`. There, `orders.json` says what to submit; `submitted` has the ids
of the jobs that are, and they are not submitted again; `trying` exists while the producer is about it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, TypeAdapter

from mirrorneuron.api.client import Client
from mirrorneuron.errors import JobStateError, RuntimeUnavailable
from mirrorneuron.settings import Settings

AGAIN_S: Final = 0.1  #: after a server that did not answer
ENTRYPOINT: Final = "source"


class Order(BaseModel):
    """One job that is to be submitted."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    bundle: Path
    due_at_s: float  #: seconds since the epoch
    feed: tuple[Any, ...] = ()  #: what is sent to its entrypoint afterwards


ORDERS: Final = TypeAdapter(list[Order])


def write_orders(folder: Path, orders: list[Order]) -> None:
    """Begin anew: nothing is submitted yet."""
    (folder / "orders.json").write_bytes(ORDERS.dump_json(orders))
    (folder / "submitted").write_bytes(b"")


def submitted(folder: Path) -> set[str]:
    """The ids of the jobs that are submitted."""
    return set((folder / "submitted").read_text().splitlines())


def trying(folder: Path) -> Path:
    """The file that exists while a job is being submitted."""
    return folder / "trying"


def produce(client: Client, folder: Path) -> None:
    """Submit what is not submitted yet, each job when it is due. Blocks; rides out a server that is away."""
    done = submitted(folder)
    for order in ORDERS.validate_json((folder / "orders.json").read_bytes()):
        if order.job_id not in done:
            time.sleep(max(0.0, order.due_at_s - time.time()))
            trying(folder).touch()
            while not _submit(client, order):
                time.sleep(AGAIN_S)
            with (folder / "submitted").open("a") as out:  # one write of a few bytes is there as a whole or not at all
                out.write(f"{order.job_id}\n")
            trying(folder).unlink()


def _submit(client: Client, order: Order) -> bool:
    """Submit one job and send it its messages; False if the server did not answer. Safe to repeat: all has its id."""
    try:
        client.run_manifest(order.bundle, job_id=order.job_id)
        for number, body in enumerate(order.feed):
            message = {"envelope": {"message_id": f"{order.job_id}:fed:{number}"}, "body": body}
            client.send_message(order.job_id, ENTRYPOINT, message)
    except JobStateError:
        return True  # it has had all its messages, and ended
    except RuntimeUnavailable:
        return False
    return True


def main() -> None:
    """Be a producer: `python -m mirrorneuron.chaos.producer FOLDER`."""
    produce(Client(Settings.load()), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
