"""Threads and memory of a process during a computation."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from numba import config
from threadpoolctl import threadpool_info

from scgeneformer._process import threads

FAULTS = """
import resource, sys
from contextlib import nullcontext

import torch

from scgeneformer._process import memory_for_reuse

torch.set_num_threads(1)
with memory_for_reuse() if sys.argv[1] == "reuse" else nullcontext():
    for i in range(101):
        if i == 1:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.zeros(4 << 20, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def n_threads() -> list[int]:
    """Of torch, numba and each library of linear algebra."""
    blas = [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]
    return [torch.get_num_threads(), vars(config)["NUMBA_NUM_THREADS"], *blas]


def test_threads_are_as_many_as_asked_for_and_as_before_afterwards():
    before = n_threads()
    with threads(3):
        assert set(n_threads()) == {3}
    assert n_threads() == before
    with pytest.raises(RuntimeError), threads(3):
        raise RuntimeError
    assert n_threads() == before


@pytest.mark.skipif(sys.platform != "linux", reason="thresholds of glibc")
def test_a_worker_of_dask_does_not_ask_the_system_for_the_memory_of_each_tensor():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment |= {"MALLOC_TRIM_THRESHOLD_": "65536"}  # as Dask starts its workers
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", FAULTS, how], env=environment))
        for how in ("as it is", "reuse")
    }
    pages = 100 * (4 << 20) // os.sysconf("SC_PAGE_SIZE")  # of a hundred tensors
    assert faults["as it is"] > 0.5 * pages  # or there is nothing to mend any more
    assert faults["reuse"] < 0.2 * pages
