"""Which texts share a forward pass.

Pure arithmetic over lengths. Called by the encoders; knows nothing of tensors.
"""

from __future__ import annotations

from collections.abc import Sequence


def packed_batches(lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """Groups of indices for an encoder that lays sequences end to end, without padding.

    Longest first, each into the first group that still has room (first-fit decreasing), so that groups are nearly full
    and a text that is too large for memory shows at once.

    Args:
        lengths: Tokens of each text, >= 0.
        max_tokens: Tokens of one group, >= 1. A longer text gets a group of its own.

    Returns:
        Lists of indices; every index of `lengths` exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    groups: list[list[int]] = []
    room: list[int] = []
    first_open = 0
    for index in order:
        length = lengths[index]
        for group in range(first_open, len(groups)):
            if room[group] >= length:
                groups[group].append(index)
                room[group] -= length
                break
        else:
            groups.append([index])
            room.append(max_tokens - length)
        # Groups with no room for even the shortest text need not be looked at again.
        while first_open < len(groups) and room[first_open] <= 0:
            first_open += 1
    return groups


def padded_batches(lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """Groups of indices for an encoder that pads every text of a group to its longest.

    Args:
        lengths: Tokens of each text, >= 0.
        max_tokens: Slots (texts x longest) of one group, >= 1. A longer text gets a group of its own.

    Returns:
        Lists of indices, longest first; every index of `lengths` exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    groups: list[list[int]] = []
    for index in order:
        longest = lengths[groups[-1][0]] if groups else 0
        if groups and (len(groups[-1]) + 1) * longest <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def slots_of(groups: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    """Slots a padded encoder computes for these groups: texts x longest, summed."""
    return sum(len(group) * max(lengths[i] for i in group) for group in groups if group)
