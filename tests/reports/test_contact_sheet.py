"""The page of data: pictures and names from files can't break out of it, and it runs no script."""

from __future__ import annotations

import pytest
import torch

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.convert import from_arrays
from robustbench_lite.data.quality import examine_data
from robustbench_lite.reports.contact_sheet import render
from robustbench_lite.results.data_quality import DataQuality, Fault, Looked, Suspect
from robustbench_lite.results.scorecard import Finding

EVIL = '"><script>alert(1)</script>\x1b[31m'


def test_samples_are_shown_with_their_twins() -> None:
    x = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    known = from_arrays(x, torch.arange(40) % 2, "known")
    page = render([examine_data(from_arrays(x[:4], torch.arange(4) % 2, "mine"), known)])
    assert page.count('<img src="data:image/png;base64,') == 8
    assert "RB151" in page
    assert "<script" not in page
    assert "script-src" not in page


def test_nothing_hostile_comes_through() -> None:
    suspect = Suspect(split="test", index=1, label=EVIL, why=EVIL, file=EVIL, picture=EVIL, other=EVIL)
    finding = Finding(code="RB153", severity="info", message=EVIL, cure=EVIL)
    check = Looked(name=EVIL, saw=EVIL, faults=(Fault(finding=finding, suspects=(suspect,)),))
    page = render([DataQuality(data=EVIL, samples={"test": 1}, classes=(EVIL,), checks=(check,))])
    assert "<script" not in page
    assert "\x1b" not in page
    assert "<img" not in page, "what is no PNG is no picture"


@pytest.mark.parametrize("found", [[], [1], [1, 2]])
def test_scorecards_are_sent_elsewhere(found: list[object]) -> None:
    with pytest.raises(UserError, match="rblite doctor --data D --html FILE"):
        render(found)
