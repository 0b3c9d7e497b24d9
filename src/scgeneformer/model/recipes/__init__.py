"""How a classifier of cells or of genes is trained: linear probe, candidates that start from it, and which of them is kept."""
