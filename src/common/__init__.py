"""Shared by all packages: paths, names, errors, configuration, files, locks, logging, seeds, run records."""
