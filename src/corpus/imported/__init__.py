"""Raw sets from a user's own data: folders, tables, JSON lines, sets of the Hub, lhotse cuts."""
