"""Every error MirrorNeuron raises.

MirrorNeuronError
|-- ManifestError (ValueError)          fix the bundle: `.issues` lists every problem
|-- SettingsError (ValueError)          fix the environment variable that it names
|-- PayloadTooLarge (ValueError)        send less, or raise the cap that it names
|-- MessageInvalid (ValueError)         mend the message: which part, and what is wrong with it
|-- NotFound (LookupError)
|   |-- JobNotFound  AgentNotFound  MessageNotFound
|   `-- BundleNotFound                  the store has lost the bundle of a job: submit it again
|-- RecordDamaged                       somebody else wrote into the store: the message says what cannot be read
|-- JobExists                           choose another job id
|-- JobStateError                       the job is in a state in which this cannot be done
|-- JobFailed                           `AsyncResult(job_id).get()` of a failed job: `.job_map` is its record
|-- WaitTimeout (TimeoutError)          the job goes on: wait again
`-- RuntimeUnavailable (ConnectionError) the server or broker does not answer: try again later
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Issue:
    """One problem of a bundle: where it is, what it is, and what to do about it."""

    path: str  #: like `nodes[3].config.command`; "" means the bundle as a whole
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
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
    """What was to be sent is no message, or cannot be said in JSON."""


class NotFound(MirrorNeuronError, LookupError):
    """Something that was asked for by its id does not exist."""


class JobNotFound(NotFound):
    """No job has this id (or its retention is over)."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"no job {job_id!r}")

    def __reduce__(self) -> tuple[type[JobNotFound], tuple[str]]:
        return type(self), (self.job_id,)


class AgentNotFound(NotFound):
    """The job has no agent of this id."""


class MessageNotFound(NotFound):
    """The job has no such dead letter."""


class BundleNotFound(NotFound):
    """The store has lost the bundle of a job: somebody deleted it, or the server did not keep it."""


class RecordDamaged(MirrorNeuronError):
    """What stands in the store is not what this package writes there; the message says where and what is wrong."""


class JobExists(MirrorNeuronError):
    """The job id is taken by a job with another bundle."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"job {job_id!r} exists already, with another bundle")

    def __reduce__(self) -> tuple[type[JobExists], tuple[str]]:
        return type(self), (self.job_id,)


class JobStateError(MirrorNeuronError):
    """The job's state does not allow this; the message says which state it is in."""


class JobFailed(MirrorNeuronError):
    """Raised by `AsyncResult(job_id).get()` for a job that ended as failed."""

    def __init__(self, message: str, job_map: Mapping[str, Any] | None = None) -> None:
        self.job_map = job_map
        super().__init__(message)


class WaitTimeout(MirrorNeuronError, TimeoutError):
    """The deadline passed before the job ended. The job itself is untouched."""

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
