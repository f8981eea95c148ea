"""The errors that a store raises."""


class StoreError(Exception):
    """The base class of all store errors."""


class StoreUnavailable(StoreError):
    """The operation failed and changed nothing. A retry may succeed."""


class StoreDamaged(StoreUnavailable):
    """The requested data is in a damaged part of the store. A retry does not help; other data may still be readable."""


class CommitUnknown(StoreError):
    """The store cannot determine whether the batch was committed."""


class StoreRefused(StoreError):
    """The store cannot be opened, and a retry does not help. The message says what to do."""
