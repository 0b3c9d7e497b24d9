"""Every public function refuses a wrong argument by name, before it does anything."""

from __future__ import annotations

import inspect
import pickle
import re
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scgeneformer as sg
from scgeneformer import hub, model
from scgeneformer._arguments import RULES, allowed, checked, parameters_of
from scgeneformer._settings import Settings, engine_options

CLASSES = (
    model.Geneformer,
    model.CellClassifier,
    model.GeneClassifier,
    model.PairClassifier,
    model.TrajectoryModel,
    model.Corpus,
    sg.Vocabulary,
    sg.Reference,
)
INNER = {"check_tokens", "check_fits", "convert_legacy_save", "n_named_by_id", "token_of", "tokens_of"}
FREE = {  # numbers without a range of ours
    "elapsed": "the intervals of a model are those of its data",
    "devices": "-1 stands for all of them; Lightning knows how many there are",
    "device": "a number of a device, which scvi-tools reads",
}


def public_functions() -> dict[str, Any]:
    """Functions of the rooms and methods of the classes, but for what dataclasses write themselves."""
    functions = {}
    for room in (sg.pp, sg.tl, sg.pl, sg.get, hub, model):
        for name, function in inspect.getmembers(room, inspect.isfunction):
            functions[f"{room.__name__.removeprefix('scgeneformer.')}.{name}"] = function
    functions |= {name: getattr(sg, name) for name in ("read_official", "export_official")}
    for cls in CLASSES:
        for name, member in inspect.getmembers(cls, callable):
            function = getattr(member, "__func__", member)
            ours = str(getattr(function, "__module__", "")).startswith("scgeneformer") and name not in INNER
            ours = ours and function not in (sg.Vocabulary.__init__, sg.Reference.__init__)
            if ours and (name == "__init__" or not name.startswith("_")):
                functions[f"{cls.__name__}.{name}"] = function
    return functions


FUNCTIONS = public_functions()
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    obs = pd.DataFrame({"state": list("abcd")}, index=list("wxyz"))
    return ad.AnnData(np.random.default_rng(0).poisson(2.0, (4, 5)).astype(np.float32), obs=obs)


def content(adata: ad.AnnData) -> bytes:
    places = ("obs", "var", "uns", "obsm", "varm", "layers", "obsp", "varp")
    return pickle.dumps([adata.X.tobytes(), *(dict(getattr(adata, place)) for place in places)])


def call(function: Any, data: ad.AnnData, /, **wrong: Any) -> None:
    """Call `function` with a wrong argument, and placeholders for required ones."""
    given = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in ("adata", "mdata"):
            given[name] = data
        elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            given[name] = {"int": 1, "float": 1.0, "str": "given"}.get(
                parameter.annotation, "given" if "str" in str(parameter.annotation) else object()
            )
    function(**given | wrong)


@each_function
def test_wrong_arguments_are_refused_by_name(function, adata):
    before = content(adata)
    for name, parameter in parameters_of(function).items():
        members = allowed(name, parameter.annotation)
        if members is None or name in ("self", "cls"):
            continue
        wrong = [b"bytes"] if parameter.annotation.startswith("Hashable") else b"bytes"
        with pytest.raises(TypeError, match=rf"^{name}={re.escape(repr(wrong))} must be .*\.$"):
            call(function, adata, **{name: wrong})
        if re.search(r"\b(int|float)\b", re.sub(r"\[.*\]", "", parameter.annotation)):
            assert name in RULES or name in FREE, f"{name} has no range"
            if name in RULES and name not in FREE:
                value = 2 if name == "emb_layer" else -3
                with pytest.raises(ValueError, match=rf"^{name}={value} must be .*\.$"):
                    call(function, adata, **{name: value})
        if re.match(r"Literal\[['\"]", parameter.annotation):
            with pytest.raises(ValueError, match=rf"^{name}='no such choice' must be .*'"):
                call(function, adata, **{name: "no such choice"})
    assert content(adata) == before


@pytest.mark.parametrize(
    ("function", "wrong", "error"),
    [
        (sg.pp.tokenize, {"max_length": "5"}, "max_length='5' must be an integer of at least 1 or None."),
        (sg.pp.tokenize, {"layer": ["a"]}, "layer=['a'] must be a string or None."),
        (sg.pp.tokenize, {"copy": "no"}, "copy='no' must be True or False."),
        (sg.pp.tokenize, {"key_added": None}, "key_added=None must be a string that is not empty and has no slash."),
        (sg.tl.embed, {"key_added": "a/b"}, "key_added='a/b' must be a string that is not empty and has no slash."),
        (sg.tl.embed, {"mod": 3}, "mod=3 must be a string."),
        (sg.tl.transfer, {"unknown": 1.0}, "unknown=1.0 must be a finite number between 0 and 1 or None."),
        (sg.get.shifts, {"n_top": True}, "n_top=True must be an integer of at least 0 or None."),
        (sg.tl.perturb, {"quartiles": 2.0}, "quartiles=2.0 must be 1, 2 or 3."),
        (sg.tl.evaluate_shifts, {"n_top": [5, -1]}, "n_top=[5, -1] must be a list of: an integer of at least 0."),
        (sg.tl.perturb_sets, {"anchor": ["A", "B"]}, "anchor=['A', 'B'] must be a string or None."),
        (
            sg.tl.rank_shifts,
            {"rng": "x"},
            "rng='x' must be an integer of at least 0, a numpy.random.Generator or None.",
        ),
        (model.CellClassifier.train, {"accumulate": 1.5}, "accumulate=1.5 must be an integer of at least 1."),
        (
            model.CellClassifier.train,
            {"plan_kwargs": {"weight_decay": -1}},
            "weight_decay=-1 must be a finite number of at least 0.",
        ),
        (
            model.GeneClassifier.train,
            {"learning_rate": np.nan},
            "learning_rate=nan must be a finite number of at least 0.",
        ),
    ],
)
def test_errors_say_what_is_allowed(function, wrong, error, adata):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(error)}$"):
        call(function, adata, **wrong)


def test_numpy_scalars_are_numbers_and_a_call_keeps_signature_and_documentation():
    @checked
    def verb(n_top: int, /, size: float | None = None, *, rng: int | np.random.Generator = 0, **further: Any) -> list:
        """Say what arrived."""
        return [n_top, size, rng, further]

    arrived = verb(np.int64(3), np.float32(0.5), rng=np.uint8(1), other=np.int64(4))
    assert arrived == [3, 0.5, 1, {"other": 4}]
    assert [type(value) for value in arrived[:3]] == [int, float, int]
    assert list(inspect.signature(verb).parameters) == ["n_top", "size", "rng", "further"]
    assert verb.__doc__ == "Say what arrived."
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'n_top'"):
        verb()


def test_arguments_of_folds_and_trials_are_checked_before_the_first(adata):
    with pytest.raises(ValueError, match="batch_size=0 must be"):
        model.tune(model.CellClassifier, adata, folder="trials", train_params={"batch_size": 0})
    with pytest.raises(TypeError, match="freeze=1.5 must be"):
        model.tune(model.CellClassifier, adata, folder="trials", model_params={"freeze": 1.5})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("device", value) for value in ("gpu", "cuda:", "cuda:x", 0)),
        *(("precision", value) for value in ("float16", 16)),
        *(("token_budget", value) for value in ("5", 1.5, 0, True)),
        *(("offline", value) for value in ("no", 1)),
        *(("progress", value) for value in ("yes", 1)),
        *(("cache_dir", value) for value in (3, None)),
        ("mirror", 3),
    ],
)
def test_settings_and_options_of_the_engine(name, value):
    with pytest.raises((TypeError, ValueError), match=rf"^{name}={value!r} must be "):
        setattr(Settings(), name, value)
    if name in ("device", "precision", "token_budget", "progress"):
        with pytest.raises((TypeError, ValueError), match=rf"^{name}={value!r} must be "):
            engine_options(**{name: value})


@pytest.mark.parametrize(("name", "text"), [("OFFLINE", "perhaps"), ("TOKEN_BUDGET", "many"), ("DEVICE", "gpu")])
def test_environment_variables_are_refused_by_name(monkeypatch, name, text):
    monkeypatch.setenv(f"SCGENEFORMER_{name}", text)
    with pytest.raises(ValueError, match=f"variable SCGENEFORMER_{name}='{text}' is not"):
        Settings.from_environment()
