"""One test for each fault that reached a user; each names its row and says what broke."""
