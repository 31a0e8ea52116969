"""Small shared pieces: paths, names, errors, configuration, logging, seeds, run records."""
