"""The front end under the names that the published system's users import."""
