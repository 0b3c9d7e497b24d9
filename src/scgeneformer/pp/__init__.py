"""Preprocessing: counts to tokens."""

from __future__ import annotations

from ._tokenize import tokenize

__all__ = ["tokenize"]
