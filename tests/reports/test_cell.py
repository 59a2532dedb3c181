"""The picture of a cell has an arc for each edge that is there."""

from __future__ import annotations

import pytest

from robustbench_lite.reports import _cell


def test_each_edge_that_is_there_is_an_arc_with_its_name() -> None:
    drawn = _cell.picture("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|my_own~2|")
    assert drawn is not None
    assert [arc.label for arc in drawn.arcs] == ["conv 3x3", "skip", "pool 3x3", "my_own"]
    starts = [int(arc.path[1:].partition(" ")[0]) for arc in drawn.arcs]
    ends = [int(arc.path.split()[-2]) for arc in drawn.arcs]
    places = dict(drawn.nodes)
    assert [places[x] for x in starts] == ["in", "1", "in", "2"]
    assert [places[x] for x in ends] == ["1", "2", "out", "out"]
    assert len({(arc.x, arc.y) for arc in drawn.arcs}) == 4  # no label hides another
    assert all(0 < arc.y < drawn.height and 0 < arc.x < drawn.width for arc in drawn.arcs)


@pytest.mark.parametrize("words", [None, "", "depth 2, width 8", "|none~0|+|x|+|", "a+b+c"])
def test_what_is_no_cell_has_no_picture(words: str | None) -> None:
    assert _cell.picture(words) is None


def test_labels_of_a_full_cell_stand_apart() -> None:
    drawn = _cell.picture("|a~0|+|b~0|c~1|+|d~0|e~1|f~2|")
    assert drawn is not None
    assert len({(arc.x, arc.y) for arc in drawn.arcs}) == 6
