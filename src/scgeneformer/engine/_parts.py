"""Parts of cells that run through a model."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scgeneformer._cluster import active_client, map_parts

from ._device import placed, resolve_device, resolve_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import nn


def map_cells(
    function: Callable[..., Any],
    parts: Iterable[tuple[int, tuple[Any, ...]]],
    network: nn.Module,
    *shared: Any,
    device: str,
    precision: str,
    here: Mapping[str, Any] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Yield ``function(network, *shared, *arguments)`` and the number of each part, as `map_parts`, with the network moved to its device only once.

    ``"auto"`` is the device of this process, or of each worker.
    """
    if active_client() is not None:
        sent: Any = _Sent(network, device, precision)
    else:
        place = resolve_device(device)
        sent = placed(network, place, resolve_precision(precision, place))
    return map_parts(function, parts, shared=(sent, *shared), here=here)


@dataclass(frozen=True)
class _Sent:
    """A network on its way to a worker, where it is unpacked on the device."""

    network: nn.Module
    device: str
    precision: str

    def __reduce__(self) -> tuple[Callable[..., nn.Module], tuple[nn.Module, str, str]]:
        network = self.network
        if next(network.parameters()).device.type != "cpu":
            network = copy.deepcopy(network).cpu()
        return _arrived, (network, self.device, self.precision)


def _arrived(network: nn.Module, device: str, precision: str) -> nn.Module:
    place = resolve_device(device)
    return placed(network, place, resolve_precision(precision, place))
