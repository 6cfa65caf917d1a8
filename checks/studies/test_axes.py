"""The Assistant Axis of answers in roles, and what leaving out a role or a question makes of it."""

from __future__ import annotations

import numpy as np
import torch

from personalab.studies.axes import RoleStates

ROLE = np.array([-1, -1, -1, -1, 0, 0, 1, 1, 2, 2])  # two defaults and three roles, two questions
QUESTION = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1])
STATES = torch.randn(10, 4, 6, generator=torch.Generator().manual_seed(0))
FOUND = RoleStates(STATES, ROLE, QUESTION)
WHOLE = np.arange(FOUND.n_units)


def test_the_axis_points_from_the_roles_to_the_defaults():
    gap = STATES[:4].mean(dim=0) - STATES[4:].mean(dim=0)
    torch.testing.assert_close(FOUND.gap(), gap)
    torch.testing.assert_close(FOUND.axis(), gap / gap.norm(dim=1, keepdim=True))
    assert FOUND.n_units == 5


def test_all_units_are_the_whole_and_order_does_not_matter():
    torch.testing.assert_close(FOUND.gap(WHOLE), FOUND.gap())
    torch.testing.assert_close(FOUND.gap(WHOLE[::-1]), FOUND.gap())


def test_without_a_role_and_without_a_question():
    torch.testing.assert_close(
        FOUND.gap(np.delete(WHOLE, 1)), STATES[:4].mean(dim=0) - STATES[[4, 5, 8, 9]].mean(dim=0)
    )
    torch.testing.assert_close(
        FOUND.gap(np.delete(WHOLE, 3)), STATES[[1, 3]].mean(dim=0) - STATES[[5, 7, 9]].mean(dim=0)
    )


def test_after_one_block_it_is_the_row_of_that_block():
    torch.testing.assert_close(FOUND.at(2).axis(WHOLE)[0], FOUND.axis()[2])
