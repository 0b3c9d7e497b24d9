"""Training on counts in files, too many to fit in memory."""
