"""The second stage of a decoder: trajectories of cells of several times, their tokens, what is drawn of them, and the model class."""
