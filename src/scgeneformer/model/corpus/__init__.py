"""Training on files that do not fit in memory."""
