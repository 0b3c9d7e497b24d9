"""Pairs of genes: tables of them, splits without leakage, negatives, features, and a classifier with its baselines."""
