"""From a recipe to a saved raw set: download, unpack, rows in worker processes, sort, index, save, check."""
