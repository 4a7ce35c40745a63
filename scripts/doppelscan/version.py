"""The version, in a place that every room may import."""

__all__ = ["__version__"]

__version__ = "0.4.0"
