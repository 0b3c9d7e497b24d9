"""Blocks translated by ``torch.compile``."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

from ._encoder import Layers
from ._llama import Block

if TYPE_CHECKING:
    from torch import nn

_COMPILERS = {"darwin": "clang++", "win32": "cl"}


def compile_blocks(network: nn.Module) -> None:
    """Have ``torch.compile`` translate the blocks of `network` when they first run, for rows of any length.

    Names of weights stay as they are, and copies of the network are not compiled.

    Raises
    ------
    RuntimeError
        If there is no C++ compiler, which torch needs for it.

    Examples
    --------
    Compiling happens at the first call.

    >>> encoder = sg.nn.load_encoder(sg.hub.load("default").folder)
    >>> sg.nn.compile_blocks(encoder)
    """
    compiler = os.environ.get("CXX") or _COMPILERS.get(sys.platform, "g++")
    if shutil.which(compiler) is None:
        msg = (
            f"torch.compile needs a C++ compiler, but {compiler!r} was not found. Install one (`conda install "
            "cxx-compiler` or `apt install g++`), name yours in the environment variable CXX, or train without "
            "compile."
        )
        raise RuntimeError(msg)
    for module in network.modules():
        if isinstance(module, Layers | Block):
            module.compile(dynamic=True)
