"""From a benchmark's published files to the common columns on disk."""
