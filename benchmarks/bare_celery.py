"""The app to compare with: plain Celery with the tasks of `research_flow` and of a fan-out, on the same server."""

from __future__ import annotations

import os

from celery import Celery

URL = os.environ.get("BENCH_URL")  # set for the workers; the benchmark sets the URL of its own app once its server runs
app = Celery("bare", broker=URL, backend=URL, set_as_current=False)
app.conf.update(worker_prefetch_multiplier=1, task_default_queue="bare", broker_connection_retry_on_startup=True)


@app.task
def ingress(query: dict[str, object]) -> dict[str, object]:
    return query


@app.task
def retriever(query: dict[str, object]) -> dict[str, object]:
    return query


@app.task
def reviewer(query: dict[str, object]) -> dict[str, object]:
    return {"messages": [query], "count": 1, "last_message": query}


@app.task
def forward(number: int) -> int:
    return number


@app.task
def gather(numbers: list[int]) -> dict[str, object]:
    return {"messages": numbers, "count": len(numbers), "last_message": numbers[-1]}
