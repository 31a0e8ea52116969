"""One test for each fault that reached a user."""
