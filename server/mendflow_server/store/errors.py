"""What a store raises."""


class StoreError(Exception):
    """The root of a store's errors."""


class StoreUnavailable(StoreError):
    """The store could not do it; nothing was changed. It may work again later."""


class StoreDamaged(StoreUnavailable):
    """What was asked for lies where the store is damaged: trying again does not help. The rest may be whole."""


class CommitUnknown(StoreError):
    """The store cannot tell whether the batch was committed."""


class StoreRefused(StoreError):
    """The store cannot be opened, and waiting will not help. The message says what to do."""
