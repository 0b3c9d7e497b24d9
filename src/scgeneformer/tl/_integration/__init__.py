"""Several batches in one space, and how well embeddings bring them together."""
