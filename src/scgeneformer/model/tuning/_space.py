"""Space of hyperparameters, distributions over it, and search algorithms."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import nn

from scgeneformer._arguments import checked
from scgeneformer.tokens import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from scvi.data import AnnDataManager

    from scgeneformer.model._base import TransformerModel

# trials with different validation cells could not be compared
_SPLIT = {"rng", "split", "train_size", "validation_size", "test_size", "balance", "shuffle_set_split"}
_SPLIT |= {"datasplitter_kwargs", "datamodule"}
# these change what the loss measures
_OBJECTIVE = {"masking", "mask_probability", "class_weights", "task_weights"}
_DATA = {"self", "adata", "registry"}


def ray_tune() -> Any:
    """Import Ray Tune, which is optional.

    Raises
    ------
    ImportError
        If it is not installed; the message names the extra.
    """
    try:
        from ray import tune
    except ImportError as error:
        msg = "Tuning needs Ray Tune. Run `pip install 'scgeneformer[tune]'`."
        raise ImportError(msg) from error
    return tune


@checked
def default_space(model_cls: type[TransformerModel]) -> dict[str, Any]:
    """Hyperparameters worth tuning for a class of models.

    These are the hyperparameters of the official search (learning rate, weight decay, schedule, warm-up) and, for classifiers, the number of
    frozen layers. The warm-up is a fraction of all steps, which suits small data too. Remove or add entries as needed.

    Parameters
    ----------
    model_cls
        ``Geneformer``, ``CellClassifier``, ``GeneClassifier`` or your own class.

    Returns
    -------
    Dict for the argument `space` of :func:`tune`.

    Raises
    ------
    ImportError
        If Ray Tune is not installed.

    Examples
    --------
    >>> space = sg.model.default_space(sg.model.CellClassifier)
    >>> list(space)
    ['learning_rate', 'weight_decay', 'schedule', 'warmup', 'freeze']
    >>> space["freeze"] = [0, 6]
    """
    tune = ray_tune()
    fine_tuned = "freeze" in _names(model_cls.__init__)
    space = {
        "learning_rate": tune.loguniform(1e-5, 1e-3) if fine_tuned else tune.loguniform(1e-4, 1e-2),
        "weight_decay": tune.uniform(0.0, 0.3),
        "schedule": ["linear", "cosine"],
        "warmup": tune.uniform(0.0, 0.3),
        "freeze": [0, 1, 2],
    }
    arguments = _names(model_cls.__init__) | _names(model_cls.train)
    return {name: values for name, values in space.items() if name in arguments}


def resolve_space(
    model_cls: type[TransformerModel], space: Mapping[str, Any] | None, fixed: Collection[str], metric: str
) -> dict[str, Any]:
    """Convert the space to distributions of Ray; None is the default space without the fixed arguments.

    Raises
    ------
    ValueError
        If a name is not an argument of the class, or is also fixed; if trials could not be compared by the metric; or if a value is
        neither a list of plain values nor a distribution of Ray.
    """
    tune = ray_tune()
    arguments = _names(model_cls.__init__) | _names(model_cls.train)
    if space is None:
        space = {name: values for name, values in default_space(model_cls).items() if name not in fixed}
    resolved = {}
    for name, values in space.items():
        if name in _SPLIT:
            msg = f"{name!r} determines the validation cells, so trials could not be compared. Set it in train_params instead."
            raise ValueError(msg)
        if name not in arguments:
            msg = f"{name!r} in the space is not an argument of {model_cls.__name__} or its train: {sorted(arguments - _SPLIT)}."
            raise ValueError(msg)
        if name in fixed:
            msg = f"{name!r} is in the space and among the fixed arguments. Keep one of them."
            raise ValueError(msg)
        if name in _OBJECTIVE and metric.endswith("loss"):
            msg = f"{metric} cannot be compared between values of {name}. Compare by a metric such as 'validation_macro_f1', or fix {name}."
            raise ValueError(msg)
        domain = tune.choice(values) if isinstance(values, list) and values else values
        if not isinstance(domain, tune.search.sample.Domain) or not _plain(getattr(domain, "categories", [])):
            msg = (
                f"space[{name!r}] must be a list of plain values, such as numbers, or a distribution such as "
                f"ray.tune.loguniform(1e-5, 1e-3), not {values!r}. Put fixed arguments into model_params or "
                "train_params."
            )
            raise ValueError(msg)
        resolved[name] = domain
    return resolved


def longest(space: Mapping[str, Any], max_epochs: int) -> int:
    """Maximum number of epochs of a trial."""
    domain = space.get("max_epochs")
    if domain is None:
        return max_epochs
    return int(max(domain.categories) if hasattr(domain, "categories") else domain.upper)


def constructed(model_cls: type[TransformerModel], names: Iterable[str]) -> frozenset[str]:
    """Those of `names` that are arguments of the constructor; the others are arguments of ``train``."""
    return frozenset(names) & _names(model_cls.__init__)


def searcher_named(name: str, rng: int) -> Any:
    """Search algorithm of Ray with this name.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    if name == "random":
        from ray.tune.search.basic_variant import BasicVariantGenerator

        return BasicVariantGenerator(random_state=rng)
    try:
        import hyperopt  # noqa: F401 Ray asks for it only by an assertion
    except ImportError as error:
        msg = "searcher='hyperopt' needs hyperopt. Run `pip install 'scgeneformer[tune]'`."
        raise ImportError(msg) from error
    from ray.tune.search.hyperopt import HyperOptSearch

    return HyperOptSearch(random_state_seed=rng)


def described(value: Any) -> Any:
    """Plain values that distinguish two searches: hashes of weights and vocabularies, and of other objects only the class."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(name): described(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [described(each) for each in value]
    if isinstance(value, Vocabulary):
        return value.hash
    if hasattr(value, "domain_str"):  # a distribution of Ray
        return f"{value.get_sampler()} {value.domain_str}"
    network = getattr(value, "module", None) or getattr(value, "encoder", None)
    if isinstance(network, nn.Module):
        weights = [tensor.detach().float().cpu().numpy() for tensor in network.state_dict().values()]
        return _hash(weights)
    return str(value) if isinstance(value, PurePath) else type(value).__name__


def digest(manager: AnnDataManager) -> str:
    """Hash of all registered data."""
    fields = sorted(manager.registry["field_registries"])
    return _hash([np.asarray(manager.get_from_registry(field)) for field in fields])


def _plain(values: list[Any]) -> bool:
    """Whether values survive being written to a JSON file, as Ray does."""
    try:
        return json.loads(json.dumps(values)) == values
    except TypeError:
        return False


def _hash(arrays: Iterable[np.ndarray]) -> str:
    sha256 = hashlib.sha256()
    for values in arrays:
        if values.dtype.kind not in "biuf":
            values = pd.util.hash_pandas_object(pd.DataFrame(values).astype(str), index=False).to_numpy()
        sha256.update(np.ascontiguousarray(values).tobytes())
    return sha256.hexdigest()


def _names(function: Any) -> set[str]:
    """Names of the arguments of `function`, except for data."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)} - _DATA
