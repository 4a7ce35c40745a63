"""Two independent sets against each other: is a share another, and is somebody who is not seen any more gone?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from scipy.stats import fisher_exact, hypergeom

from doppelscan.errors import InputError

__all__ = ["chance_unseen", "share_p_value"]


def share_p_value(
    first: Sequence[bool] | np.ndarray,
    first_clusters: Sequence[Hashable],
    second: Sequence[bool] | np.ndarray,
    second_clusters: Sequence[Hashable],
) -> float:
    """Two-sided p-value that two shares are one (Fisher's exact test), counted in clusters: the slices of one volume are not independent.

    A cluster counts once, as a hit where one of its members is. Of sets without clusters this is Fisher's test of the members.

    Args:
        first: bool [N], of each member of one set.
        first_clusters: of each, which it belongs to.
        second: bool [M], of each member of the other.
        second_clusters: likewise.

    Returns:
        in (0, 1]; 1 where a set is empty.

    Raises:
        InputError: clusters that are not one a member.
    """
    tables = []
    for hits, clusters in ((first, first_clusters), (second, second_clusters)):
        if len(hits) != len(clusters):
            raise InputError(
                f"The 'clusters' parameter must name the cluster of each of {len(hits)} members. Got {len(clusters)}; name all."
            )
        hit: dict[Hashable, bool] = {}
        for one, cluster in zip(hits, clusters, strict=True):
            hit[cluster] = hit.get(cluster, False) or bool(one)
        tables.append([sum(hit.values()), len(hit) - sum(hit.values())])
    return float(fisher_exact(tables).pvalue) if all(sum(table) for table in tables) else 1.0


def chance_unseen(seen: int, first: int, second: int) -> float:
    """Chance that of ``seen`` hits none falls into the second set although both sets hit alike: the exact one-sided test of 0 hits there.

    Args:
        seen: hits, all of them in the first set.
        first: members of the first set.
        second: members of the second.

    Returns:
        in (0, 1]; 1 without hits or with an empty second set.
    """
    return float(hypergeom.pmf(0, first + second, seen, second)) if seen and second else 1.0
