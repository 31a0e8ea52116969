"""Work on collected sets: splits, filters, checks, statistics, join with the published corpus, upload."""
