"""Rows on disk become training examples: joins by key, split indexes, mixtures, collation."""
