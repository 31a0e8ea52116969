"""Data from elsewhere: downloads that survive failures, archives, clips in one form. No names of data sets."""
