"""Settings refuse what they do not know, read the environment, and can be set for a while."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from scgeneformer._settings import Settings, engine_options, settings


def test_environment_is_read_at_import(tmp_path):
    code = "import scgeneformer as sg; s = sg.settings; print(s.device, s.token_budget, s.offline, s.progress, s.cache_dir, s.mirror)"
    environment = {
        "SCGENEFORMER_DEVICE": "cpu",
        "SCGENEFORMER_TOKEN_BUDGET": "123",
        "SCGENEFORMER_OFFLINE": "1",
        "SCGENEFORMER_PROGRESS": "false",
        "SCGENEFORMER_CACHE_DIR": str(tmp_path),
        "SCGENEFORMER_MIRROR": "",
        "PYTHONPATH": str(Path(sys.modules["scgeneformer"].__file__).parents[1]),
    }
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["cpu", "123", "True", "False", str(tmp_path), "None"]


def test_override_restores_even_after_an_error():
    settings = Settings()
    with settings.override(device="cpu", token_budget=7) as inner:
        assert (inner.device, settings.token_budget) == ("cpu", 7)
    with pytest.raises(RuntimeError), settings.override(token_budget=9):
        raise RuntimeError
    with pytest.raises(ValueError, match="token_budget"), settings.override(device="cpu", token_budget=0):
        pass
    assert settings == Settings()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("device", "gpu", "auto"),
        ("precision", "float16", "bfloat16"),
        ("token_budget", 0, "at least 1"),
        ("progress", "yes", "auto"),
    ],
)
def test_bad_values_are_refused(name, value, words):
    settings = Settings()
    with pytest.raises(ValueError, match=words):
        setattr(settings, name, value)
    assert settings == Settings()


def test_unknown_settings_are_refused():
    with pytest.raises(AttributeError, match=r"No setting 'cachedir'.*cache_dir"):
        Settings().cachedir = "x"


def test_an_index_may_follow_a_device_and_home_is_expanded():
    settings = Settings(device="cuda:1", cache_dir="~/x")
    assert settings.device == "cuda:1"
    assert settings.cache_dir == Path.home() / "x"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("stderr", [Terminal(), io.StringIO(), None], ids=["terminal", "file", "none"])
def test_progress_is_shown_where_somebody_sees_it(monkeypatch, stderr, kernel):
    shell = SimpleNamespace(config={"IPKernelApp": {}} if kernel else {"TerminalIPythonApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(sys, "stderr", stderr)
    settings = Settings()
    assert settings.progress is (kernel or isinstance(stderr, Terminal))
    with settings.override(progress=not settings.progress):
        assert settings.progress is not Settings().progress
    monkeypatch.setattr(sys, "stderr", Terminal())  # also after `override`
    assert settings.progress is True
    assert Settings(progress=False).progress is False


def test_options_of_the_engine_are_the_settings_unless_given():
    with settings.override(device="cpu", precision="bfloat16", token_budget=7, progress=False):
        options = engine_options(precision="float32", device=None, pooling=None)
    assert options == {
        "device": "cpu",
        "precision": "float32",
        "token_budget": 7,
        "progress": False,
        "pooling": None,
    }
