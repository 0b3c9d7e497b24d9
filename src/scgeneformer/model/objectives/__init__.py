"""What a network is trained for: masked genes, labels of cells, classes of genes."""
