"""The audio embedder under the names that the published system's users import."""
