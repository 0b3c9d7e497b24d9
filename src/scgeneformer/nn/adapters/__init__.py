"""Low-rank adapters: added to a network, trained, merged, saved and loaded."""

from __future__ import annotations

from ._files import load_adapter, save_adapter
from ._lora import add_lora, config_of, draw_adapters, merge_lora

__all__ = ["add_lora", "config_of", "draw_adapters", "load_adapter", "merge_lora", "save_adapter"]
