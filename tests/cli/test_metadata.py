"""`mn run --metadata`, `mn job list --where`, and metadata in `mn job inspect`."""

from __future__ import annotations

import json
from pathlib import Path

from mirrorneuron.api.client import Client
from tests.cli.conftest import Mn
from tests.support.graphs import line
from tests.support.node import environment


def test_the_command_line_sets_shows_and_filters_metadata(unserved: Client, mn: Mn, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(line(3)))
    env = environment(unserved.settings)

    def said(*args: str) -> str:
        done = mn(*args, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    labels = ("--metadata", "tenant=a=b", "--metadata", "x=1")
    job_id = json.loads(said("run", str(tmp_path), "--no-await", "--json", *labels))["job_id"]
    unserved.run_manifest(line(3))
    assert [job["job_id"] for job in json.loads(said("job", "list", "--where", "tenant=a=b", "--json"))] == [job_id]
    assert json.loads(said("job", "list", "--where", "tenant=a=b", "--where", "x=2", "--json")) == []
    assert "tenant=a=b x=1" in said("job", "inspect", job_id)
    wrong = mn("job", "list", "--where", "tenant", env=env)
    assert (wrong.returncode, "K=V" in wrong.stderr) == (2, True)
