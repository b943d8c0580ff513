"""A producer whose connection is cut at any point of a submission."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from mirrorneuron import RuntimeUnavailable
from mirrorneuron.api.client import Client
from tests.support.crash_bundles import gated, starts
from tests.support.graphs import processed


class Cut:
    """Cuts this process off from all servers after some replies. The request whose reply is lost takes effect."""

    def __init__(self, replies: int) -> None:
        self.left = replies
        self.happened = False

    def __enter__(self) -> Cut:
        self._patch = pytest.MonkeyPatch()
        read = redis.connection.AbstractConnection.read_response

        def read_response(link: redis.connection.AbstractConnection, *args: Any, **options: Any) -> Any:
            answer = read(link, *args, **options)
            self.left -= 1
            if self.left >= 0:
                return answer
            self.happened = True
            link.disconnect()
            raise redis.exceptions.ConnectionError("cut off")

        self._patch.setattr(redis.connection.Connection, "read_response", read_response)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


def test_a_submission_that_was_cut_off_anywhere_can_be_repeated(jobs: Client, tmp_path: Path) -> None:
    """With the same job id it is the same job, and it runs once."""
    for replies in range(100):
        folder = tmp_path / f"{replies}"
        (folder / "bundle" / "payloads").mkdir(parents=True)
        (folder / "bundle" / "payloads" / "data").write_text(f"{replies}")  # a bundle that is not in the store yet
        (folder / "bundle" / "manifest.json").write_text(json.dumps(gated(folder)))
        (folder / "gate").touch()
        new = Client(jobs.settings)
        with Cut(replies) as cut:
            try:
                first = new.run_manifest(folder / "bundle", job_id=f"cut-{replies}")
            except RuntimeUnavailable:
                first = f"cut-{replies}"
        assert new.run_manifest(folder / "bundle", job_id=first) == first
        assert new.wait_for_job(first, timeout=60_000)["status"] == "completed"
        assert len(starts(folder)) == 1
        assert processed(new, first) == {"worker": 1, "sink": 1}
        if not cut.happened:
            break
    assert replies > 5
