"""Statistics of shifts: every gene against a pool, a null, its likes, or no effect; donors as replicates; mixtures; false discovery.

Functions of arrays. Values come in long form: `values[i]` is one measured shift and `groups[i]` in ``range(n_groups)`` says
whose (here: which gene's). Groups may be of any size and empty; where a statistic is undefined it is NaN.
"""

from __future__ import annotations

from ._donors import donor_differences, donor_means
from ._false_discovery import benjamini_hochberg
from ._matched import matched_groups, matched_test
from ._means import Summary, group_means, summarise, t_test
from ._mixture import Mixture, two_components
from ._ranks import rank_sum, rank_sum_null
from ._results import GroupTest

__all__ = [
    "GroupTest",
    "Mixture",
    "Summary",
    "benjamini_hochberg",
    "donor_differences",
    "donor_means",
    "group_means",
    "matched_groups",
    "matched_test",
    "rank_sum",
    "rank_sum_null",
    "summarise",
    "t_test",
    "two_components",
]
