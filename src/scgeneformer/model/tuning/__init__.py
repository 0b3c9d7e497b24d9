"""Hyperparameter tuning with Ray Tune."""
