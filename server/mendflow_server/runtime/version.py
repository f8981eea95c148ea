"""The version of this distribution."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("mendflow")
except PackageNotFoundError:  # Run from a source tree that is not installed.
    VERSION = "0.0.0+source"
