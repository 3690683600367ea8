"""Define every error class of the package."""


class HierarchyError(ValueError):
    """Raised for an invalid class tree, or for a name, id or level that a tree does not have."""


class ConfigError(ValueError):
    """Raised for an invalid config value; the message names the key, the value and the remedy.

    Attributes:
        key: the full key, such as ``"SOLVER.EMA.DECAY"``; "" if the error is not about one key.
        value: its value; None if the error is not about one key.
    """

    def __init__(self, message: str, *, key: str = "", value: object = None):
        super().__init__(message)
        self.key, self.value = key, value


class DatasetError(ValueError):
    """Raised for an unusable dataset; the message names the file or key and the remedy."""


class CheckpointError(RuntimeError):
    """Raised for a missing, unreadable or incompatible checkpoint; the message names the file."""
