"""The client of the stage: a process that submits jobs when they are due, and may be killed meanwhile.

Run as `python -m mirrorneuron.chaos.producer FOLDER`. The folder holds `orders.json`, the jobs to submit;
`submitted`, the ids of the jobs that have been submitted and are skipped; and `trying`, which exists during a
submission.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, TypeAdapter

from mirrorneuron.api.client import Client
from mirrorneuron.errors import JobStateError, RuntimeUnavailable
from mirrorneuron.settings import Settings

RETRY_S: Final = 0.1  #: pause before a retry while the server is unreachable
ENTRYPOINT: Final = "source"


class Order(BaseModel):
    """One job to submit."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    bundle: Path
    due_at_s: float  #: seconds since the epoch
    feed: tuple[Any, ...] = ()  #: bodies of messages to its entrypoint after the submission


ORDERS: Final = TypeAdapter(list[Order])


def write_orders(folder: Path, orders: list[Order]) -> None:
    """Write the orders, and mark none of them as submitted."""
    (folder / "orders.json").write_bytes(ORDERS.dump_json(orders))
    (folder / "submitted").write_bytes(b"")


def submitted(folder: Path) -> set[str]:
    """Return the ids of the jobs that have been submitted."""
    return set((folder / "submitted").read_text().splitlines())


def forget(folder: Path, job_ids: Iterable[str]) -> None:
    """Mark jobs as not submitted, so that the next producer submits them and sends their messages. None may run now."""
    forgotten = set(job_ids)
    lines = (folder / "submitted").read_text().splitlines()
    (folder / "submitted").write_text("".join(f"{job_id}\n" for job_id in lines if job_id not in forgotten))


def trying(folder: Path) -> Path:
    """Return the path of the file that exists while a job is being submitted."""
    return folder / "trying"


def produce(client: Client, folder: Path) -> None:
    """Submit the remaining jobs, each when it is due. Blocks; retries while the server is unreachable."""
    done = submitted(folder)
    for order in ORDERS.validate_json((folder / "orders.json").read_bytes()):
        if order.job_id not in done:
            time.sleep(max(0.0, order.due_at_s - time.time()))
            trying(folder).touch()
            while not _submit(client, order):
                time.sleep(RETRY_S)
            with (folder / "submitted").open("a") as out:  # one small write: whole or absent after a kill
                out.write(f"{order.job_id}\n")
            trying(folder).unlink()


def _submit(client: Client, order: Order) -> bool:
    """Submit one job and send its messages. Returns False if the server is unreachable.

    Idempotent: the job and each message have fixed ids.
    """
    try:
        client.run_manifest(order.bundle, job_id=order.job_id)
        for number, body in enumerate(order.feed):
            message = {"envelope": {"message_id": f"{order.job_id}:fed:{number}"}, "body": body}
            client.send_message(order.job_id, ENTRYPOINT, message)
    except JobStateError:
        return True  # the job received all messages and has ended
    except RuntimeUnavailable:
        return False
    return True


def main() -> None:
    """Run as the producer: `python -m mirrorneuron.chaos.producer FOLDER`."""
    produce(Client(Settings.load()), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
