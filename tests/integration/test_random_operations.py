"""Long random sequences of operations by both tool sets: the same data, the
same map, and clean images after each.

VARVE_SEEDS is how many seeds, or a range FIRST-LAST; VARVE_STEPS how many
operations each. A failure is shown as a short script.
"""
import os

import pytest

from lib.random_operations import always, in_turn, run, shrink

SEEDS = os.environ.get("VARVE_SEEDS", "4")
STEPS = int(os.environ.get("VARVE_STEPS", "20"))
PLAYERS = {"each on its own": (always("varve"), always("qemu")),
           "in turn on one image": (in_turn, always("qemu"))}


def seeds():
    first, dash, last = SEEDS.partition("-")
    return range(int(first), int(last) + 1) if dash else range(int(first))


@pytest.mark.parametrize("players", PLAYERS)
@pytest.mark.parametrize("seed", seeds())
def test_both_agree(tmp_path, seed, players):
    found = run(str(tmp_path / "images"), seed, STEPS, PLAYERS[players])
    assert not found, found


@pytest.mark.parametrize("needed", [[3], [0, 7], [1, 2, 9], [5, 6]])
def test_a_failure_becomes_short(needed):
    assert shrink(list(range(10)), lambda some: set(needed) <= set(some)) == \
        needed
