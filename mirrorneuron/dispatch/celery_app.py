"""The Celery app of producers and runtime nodes. Making one does not change Celery's current app."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Any, Final
from urllib.parse import quote, urlsplit

from celery import Celery
from celery.loaders.app import AppLoader
from kombu import Connection, Exchange, Queue

from mirrorneuron.pools import LIGHT, queue
from mirrorneuron.server_url import REDIS_SCHEMES, SENTINEL, for_kombu, sentinels_of, shared_options
from mirrorneuron.settings import Settings
from mirrorneuron.store.connection import MAX_CONNECTIONS
from mirrorneuron.store.sentinel import sentinel_options
from mirrorneuron.text import printable, without_password

OPEN_JOB: Final = "mirrorneuron.open_job"
VISIT: Final = "mirrorneuron.visit"
DRAIN: Final = "mirrorneuron.drain"

CONNECT_TIMEOUT_S: Final = 3.0
SOCKET_TIMEOUT_S: Final = 3.0  # kombu's Redis transport has none by default: a publish could block without end
# A broker that is silent for about twice this time is connected to again: sooner than the lease of a claim (6 s) ends.
HEALTH_CHECK_S: Final = 2
MAX_ERROR: Final = 200  # characters of a broker's error that are shown
PUBLISH_RETRIES: Final = 1  # each may take several socket time-outs, and the sweeper repeats lost announcements


class _NoConfigModule(AppLoader):
    """Reads no configuration: CELERY_CONFIG_MODULE belongs to the importing program's own Celery app."""

    def read_configuration(self, _env: str = "") -> dict[str, Any]:
        return {}


class App(Celery):
    """A Celery app that ignores the environment variables of other Celery apps.

    In Celery, CELERY_BROKER_URL, CELERY_RESULT_BACKEND and CELERY_CONFIG_MODULE override an app's own configuration,
    and the Django fixup may make an app the default one. This app runs in a producer's process and must do neither.
    Source: celery 5.7 `app/utils.py` (`Settings`), `app/base.py`, `fixups/django.py`.
    """

    amqp_cls = "mirrorneuron.dispatch.broker_connection:Amqp"

    def __init__(self, settings: Settings) -> None:
        super().__init__("mirrorneuron", set_as_current=False, loader=_NoConfigModule, fixups=[])
        self.settings = settings  #: not in `conf`, which Flower and the remote control command `conf` print
        self._broker = broker_url(settings)
        self.backend_cls = backend_url(settings)

    def connection_for_read(self, url: str | None = None, **options: Any) -> Connection:
        return super().connection_for_read(url or self._broker, **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Connection:
        return super().connection_for_write(url or self._broker, **options)

    def connection(self, hostname: str | None = None, **options: Any) -> Connection:
        return self.connection_for_write(hostname, **options)


def make_app(settings: Settings) -> App:
    """A Celery app for *settings*: JSON only, early acknowledgement, nothing stored for agent tasks.

    The store is the record and a task only a wake-up call: a lost task costs time, a duplicate has no effect. There is
    no prefetching, because a short task could wait behind a long one while another worker is idle.
    """
    names = [queue(settings.redis_namespace, pool) for pool in (LIGHT, *settings.pools)]
    broker = broker_url(settings)
    app = App(settings)
    # A wake-up call needs no acknowledgement: on Redis, no_ack halves kombu's round trips per task. Over AMQP it would
    # disable the prefetch limit.
    no_ack = broker.partition("://")[0].partition("+")[0] in ("redis", "rediss", "sentinel")
    app.conf.update(
        mirrorneuron_lists=no_ack,  # queues are Redis lists: they need no declaration, and a taken message is gone
        broker_url=without_password(broker).partition("?")[0],  # for display; the app has its own
        result_backend_thread_safe=True,
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        task_ignore_result=True,
        task_acks_late=False,
        task_default_queue=names[0],
        # One routing key each: by default all queues would share the first one's, and receive its messages.
        task_queues=[Queue(name, Exchange(name, type="direct"), routing_key=name) for name in names],
        # Commands to workers and their events stay in the namespace, though several namespaces may share a database.
        control_exchange=f"{settings.redis_namespace}.control",
        event_exchange=f"{settings.redis_namespace}.events",
        event_queue_prefix=f"{settings.redis_namespace}.events",
        task_publish_retry_policy={"max_retries": PUBLISH_RETRIES, "interval_start": 0, "interval_step": 0.2},
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_send_task_events=True,
        broker_connection_retry_on_startup=True,
        # A Redis server that refuses commands (out of memory, became a replica) makes the worker reconnect, not crash.
        broker_channel_error_retry=no_ack,
        broker_transport_options={**(_redis_options(settings) if no_ack else {}), **_transport_options(settings)},
        redis_max_connections=MAX_CONNECTIONS,  # of the result backend
        **_tls_of_sentinels(settings),
    )
    return app


def import_all(app: Celery) -> None:
    """Import now what Celery and kombu import when they publish for the first time."""
    with suppress(Exception):  # a library of the broker may be missing: the call that needs it raises its error
        app.connection_for_write().get_transport_cls()
    for _ in (app.backend, app.tasks, app.amqp.router, app.amqp.send_task_message, app.producer_pool):
        pass
    import_module("encodings.idna")  # for the lookup of a host name
    import_module("kombu.transport.memory")  # for `list_message`


def broker_url(settings: Settings) -> str:
    """The broker's URL as kombu reads it: that of the job store unless the settings name another."""
    url = settings.broker_url or settings.redis_url
    if url.startswith(SENTINEL):
        return _kombus_sentinels(url)
    return ";".join(for_kombu(each) if _is_redis(each) else each for each in url.split(";"))


def _is_redis(url: str) -> bool:
    return urlsplit(url).scheme in REDIS_SCHEMES


def _kombus_sentinels(url: str) -> str:
    """Convert `sentinel://host,host/service/db` to kombu's form: one URL per host, the service in the options."""
    found = sentinels_of(url)
    user, password = (quote(found.server[name] or "", safe="") for name in ("username", "password"))
    who = f"{user}:{password}@" if user or password else ""
    hosts = ((f"[{host}]" if ":" in host else host, port) for host, port in found.hosts)
    return ";".join(f"{SENTINEL}{who}{host}:{port}/{found.server['db']}" for host, port in hosts)


def _transport_options(settings: Settings) -> dict[str, Any]:
    options = {
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "max_retries": 3,
        "interval_step": 0.2,
    }
    url = settings.broker_url or settings.redis_url
    if url.startswith(SENTINEL):
        found = sentinels_of(url)
        return {
            **options,
            **shared_options(url),
            "master_name": found.service,
            "sentinel_kwargs": sentinel_options(found),
        }
    return {**options, **shared_options(url)} if _is_redis(url) else options


def _tls_of_sentinels(settings: Settings) -> dict[str, Any]:
    """Celery's `broker_use_ssl`, for sentinels with TLS. Other URLs say it by their scheme."""
    url = settings.broker_url or settings.redis_url
    tls = sentinels_of(url).tls if url.startswith(SENTINEL) else {}
    return {"broker_use_ssl": tls} if tls else {}


def _redis_options(settings: Settings) -> dict[str, Any]:
    """The part of the transport's options that only kombu's Redis transport knows."""
    keys = {
        f"{name}_key": f"{settings.redis_namespace}.{name}" for name in ("unacked", "unacked_index", "unacked_mutex")
    }
    return {"health_check_interval": HEALTH_CHECK_S, **keys}


def backend_url(settings: Settings) -> str:
    url = settings.redis_url
    return "mirrorneuron+" + (f"socket://{url.removeprefix('unix://')}" if url.startswith("unix://") else url)


def broker_error(app: App) -> str:
    """Why the broker cannot be used, in one line; "" if it answers. It is often the job store's server."""
    settings = app.settings
    with app.connection_for_write() as connection:
        try:
            connection.ensure_connection(max_retries=1, timeout=CONNECT_TIMEOUT_S)
        except Exception as error:  # broker clients raise errors of any type
            url = without_password(settings.broker_url or settings.redis_url)
            return f"the broker at {url} does not answer: {printable(str(error))[:MAX_ERROR]}"
    return ""
