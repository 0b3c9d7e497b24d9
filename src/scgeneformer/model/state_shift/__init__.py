"""The identifiable latent model of cell states after scShift: its losses, network, checks of data, and the model class."""
