"""Statistics of shifts: every gene against a pool, a null, its likes, or no effect; donors as replicates; mixtures; false discovery.

Also of cells: nearest neighbours, how unusual a cell is among those of its label, and batches brought together.

Functions of arrays. Values of shifts come in long form: `values[i]` is one measured shift and `groups[i]` in ``range(n_groups)`` says
whose (here: which gene's). Groups may be of any size and empty; where a statistic is undefined it is NaN.
"""

from __future__ import annotations

from ._batches import center, harmonise, meet_neighbors, shares, total_variation
from ._contrast import MIN_DONORS, contrast, principal_axes
from ._donors import donor_differences, donor_means
from ._false_discovery import benjamini_hochberg
from ._matched import draw_test, matched_groups, matched_test
from ._means import Summary, add_error, common_effect, group_means, mean_measured, summarise, t_test
from ._mixture import Mixture, two_components
from ._moderated import moderate
from ._neighbors import LARGEST_EXACT, NeighborIndex, Neighbors, Weights
from ._novelty import conformal_p, median_distances, relative_distances, smallest_sample
from ._permuted_labels import PermutedLabels, permuted_labels
from ._ranks import auroc, rank_sum, rank_sum_null, rank_sum_pool
from ._results import GroupTest

__all__ = [
    "LARGEST_EXACT",
    "MIN_DONORS",
    "GroupTest",
    "Mixture",
    "NeighborIndex",
    "Neighbors",
    "PermutedLabels",
    "Summary",
    "Weights",
    "add_error",
    "auroc",
    "benjamini_hochberg",
    "center",
    "common_effect",
    "conformal_p",
    "contrast",
    "donor_differences",
    "donor_means",
    "draw_test",
    "group_means",
    "harmonise",
    "matched_groups",
    "matched_test",
    "mean_measured",
    "median_distances",
    "meet_neighbors",
    "moderate",
    "permuted_labels",
    "principal_axes",
    "rank_sum",
    "rank_sum_null",
    "rank_sum_pool",
    "relative_distances",
    "shares",
    "smallest_sample",
    "summarise",
    "t_test",
    "total_variation",
    "two_components",
]
