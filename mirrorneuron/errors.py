"""Every error MirrorNeuron raises.

MirrorNeuronError
|-- ManifestError (ValueError)          fix the bundle; `.issues` lists every problem
|-- SettingsError (ValueError)          fix the environment variable that the message names
|-- PayloadTooLarge (ValueError)        send less, or raise the setting that the message names
|-- MessageInvalid (ValueError)         fix the part of the message that the error names
|-- NotFound (LookupError)
|   |-- JobNotFound  AgentNotFound  MessageNotFound
|   `-- BundleNotFound                  the store has lost the bundle of a job; submit the bundle again
|-- RecordDamaged                       other software has changed a record in the store; the message names the record
|-- JobExists                           choose another job id
|-- JobStateError                       the job's status does not allow the operation
|-- JobFailed                           raised by `AsyncResult(job_id).get()`; `.job_map` is the failed job's record
|-- WaitTimeout (TimeoutError)          the job is still running; wait again
`-- RuntimeUnavailable (ConnectionError) the store or the broker does not answer; try again later
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Issue:
    """One problem of a bundle: where it is, what is wrong, and what to do."""

    path: str  #: like `nodes[3].config.command`; "" stands for the whole bundle
    message: str
    hint: str = ""
    subject: str = ""  #: the node or edge that `path` is in, like `node "fetch"`; "" if it has no name

    def __str__(self) -> str:
        subject = f" ({self.subject})" if self.subject else ""
        where = f"{self.path}{subject}: " if self.path else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{self.message}{hint}"


class MirrorNeuronError(Exception):
    """Root of all errors of this package."""


class ManifestError(MirrorNeuronError, ValueError):
    """The bundle or its manifest has problems; `issues` lists every one of them."""

    def __init__(self, issues: Sequence[Issue]) -> None:
        self.issues = tuple(issues)
        super().__init__("\n".join(str(issue) for issue in self.issues))

    def __reduce__(self) -> tuple[type[ManifestError], tuple[tuple[Issue, ...]]]:
        return type(self), (self.issues,)


class SettingsError(MirrorNeuronError, ValueError):
    """A setting has a value that cannot be used; the message names the environment variable."""


class PayloadTooLarge(MirrorNeuronError, ValueError):
    """A bundle or message is larger than its cap; the message gives both sizes and the setting."""


class MessageInvalid(MirrorNeuronError, ValueError):
    """The value given is not a valid message, or JSON cannot represent it."""


class NotFound(MirrorNeuronError, LookupError):
    """No object has the given id."""


class JobNotFound(NotFound):
    """No job has this id. An ended job is deleted when its retention time is over."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"no job {job_id!r}")

    def __reduce__(self) -> tuple[type[JobNotFound], tuple[str]]:
        return type(self), (self.job_id,)


class AgentNotFound(NotFound):
    """The job has no agent with this id."""


class MessageNotFound(NotFound):
    """The job has no dead letter with this message id."""


class BundleNotFound(NotFound):
    """The store has lost the bundle of a job: the key was deleted, or the server evicted it or lost its data."""


class RecordDamaged(MirrorNeuronError):
    """A record in the store does not have the format of this package; the message names the record and the fault."""


class JobExists(MirrorNeuronError):
    """Another job with a different bundle, or with other inputs, has this job id."""

    def __init__(self, job_id: str, difference: str = "another bundle") -> None:
        self.job_id = job_id
        self.difference = difference  #: "another bundle" or "other inputs"
        super().__init__(f"job {job_id!r} already exists with {difference}; choose another job id")

    def __reduce__(self) -> tuple[type[JobExists], tuple[str, str]]:
        return type(self), (self.job_id, self.difference)


class JobStateError(MirrorNeuronError):
    """The job's status does not allow the operation; the message names the status."""


class JobFailed(MirrorNeuronError):
    """Raised by `AsyncResult(job_id).get()` for a job that ended as failed."""

    def __init__(self, message: str, job_map: Mapping[str, Any] | None = None) -> None:
        self.job_map = job_map
        super().__init__(message)


class WaitTimeout(MirrorNeuronError, TimeoutError):
    """The deadline passed before the job ended. The time-out does not change the job."""

    def __init__(self, message: str, job_id: str | None = None) -> None:
        self.job_id = job_id
        super().__init__(message)


class RuntimeUnavailable(MirrorNeuronError, ConnectionError):
    """The job store or the broker does not answer. `str(error)` is the message and the hint, joined by `; `."""

    def __init__(self, message: str, job_id: str | None = None, *, hint: str = "") -> None:
        self.message = message  #: what is wrong, without the hint
        self.hint = hint  #: what to do; "" if nothing is known
        self.job_id = job_id  #: None if no job was named yet
        super().__init__(f"{message}; {hint}" if hint else message)
