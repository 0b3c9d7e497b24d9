from __future__ import annotations

import pandas as pd

from scgeneformer.model.training._history import History, joined


def filled(*steps: int) -> History:
    history = History()
    for step in steps:
        history.log_metrics({"loss": 1 / (step + 1), "epoch": 0}, step)
    return history


def test_one_frame_per_metric_over_steps():
    frame = filled(0, 2, 5).history["loss"]
    pd.testing.assert_frame_equal(
        frame, pd.DataFrame({"loss": [1, 1 / 3, 1 / 6]}, index=pd.Index([0, 2, 5], name="step"))
    )


def test_state_round_trip():
    history = History()
    history.load_state_dict(filled(0, 1).state_dict())
    history.log_metrics({"loss": 0.5}, 2)
    assert history.history["loss"].index.tolist() == [0, 1, 2]


def test_steps_are_counted_on():
    both = joined(filled(0, 1).history, {**filled(0, 1, 2).history, "new": pd.DataFrame({"new": [7.0]}, index=[2])})
    assert both["loss"].index.tolist() == [0, 1, 2, 3, 4]
    assert both["new"].index.tolist() == [4]
    assert joined(None, both) is both
