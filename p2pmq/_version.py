"""The version of p2pmq, in the one place that names it: the build reads it here."""

__version__ = "0.1.0"
