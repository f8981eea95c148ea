"""The errors that a store raises."""


class StoreError(Exception):
    """The base class of all store errors."""


class StoreUnavailable(StoreError):
    """The operation failed and changed nothing. A retry may succeed."""


class StoreDamaged(StoreUnavailable):
    """The requested data is in a damaged part of the store. A retry does not help; other data may still be readable."""


class CommitUnknown(StoreError):
    """The store cannot determine whether the batch was committed."""


class ReplicaFenced(StoreError):
    """Another replica continues the workflows of this one, which seemed to have ended. It must join under a new id."""


class StoreRefused(StoreError):
    """The store cannot be opened, and a retry does not help. The message says what to do."""


def opened_already(place: object) -> StoreUnavailable:
    """Return the error for a store that is opened a second time."""
    return StoreUnavailable(f"store {place} has been opened already")


def not_open(place: object) -> StoreUnavailable:
    """Return the error for the use of a store that is not open."""
    return StoreUnavailable(f"store {place} is not open")


def malformed_value(place: object, error: Exception) -> StoreError:
    """Return the error for a value that the database does not take."""
    return StoreError(f"store {place} rejected a malformed value: {error}")


def history_gap(workflow_id: str) -> StoreError:
    """Return the error for a gap in a history, which is an internal error of the driver. Nothing may be written."""
    message = (
        f"the new events of workflow {workflow_id!r} leave a gap after its last sequence; this is an internal error"
    )
    return StoreError(message)


def unknown_replica(replica_id: str, place: object) -> StoreError:
    """Return the error for the beat of a server process that has no row."""
    return StoreError(f"replica {replica_id!r} is not recorded in store {place}; this is an internal error")


def fenced(replica_id: str) -> ReplicaFenced:
    """Return the error for the beat of a replica whose end is judged."""
    return ReplicaFenced(f"another replica continues the workflows of replica {replica_id}, which seemed to have ended")
