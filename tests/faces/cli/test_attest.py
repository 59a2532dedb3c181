"""`rblite attest`: a statement is written, and what was changed since is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import rblite

pytestmark = pytest.mark.usefixtures("here")
FILES = ("card.json", "--weights", "net.safetensors", "--data", "npz:ok.npz")


def test_attest_and_verify(make_card: Callable[..., Any]) -> None:
    make_card().save("card.json")
    Path("net.safetensors").write_bytes(b"weights")
    written = rblite("attest", *FILES)
    assert (written.exit_code, "Statement  card.intoto.json" in written.output) == (0, True)
    held = rblite("attest", *FILES, "--verify", "card.intoto.json")
    assert (held.exit_code, held.output.count("as attested")) == (0, 3)
    Path("net.safetensors").write_bytes(b"weightt")
    changed = rblite("attest", *FILES, "--verify", "card.intoto.json")
    assert changed.exit_code == 1
    assert "changed      weights    net.safetensors" in changed.output
    some = rblite("attest", "card.json", "--verify", "card.intoto.json")
    assert (some.exit_code, some.output.count("not given")) == (1, 2)


def test_attest_says_what_it_is_not_about(make_card: Callable[..., Any]) -> None:
    make_card().save("card.json")
    assert "not about the weights and the data" in rblite("attest", "card.json", "--out", "new/a.json").output
    assert Path("new/a.json").is_file()
    both = rblite("attest", "card.json", "--out", "a.json", "--verify", "new/a.json")
    assert (both.exit_code, "give one of the two" in both.output) == (2, True)
    gone = rblite("attest", "card.json", "--verify", "gone.json")
    assert (gone.exit_code, "gone.json: no such file; expected what" in gone.output) == (2, True)


def test_of_a_large_folder_some_files_are_listed_and_the_rest_counted(make_card: Callable[..., Any]) -> None:
    make_card().save("card.json")
    Path("photos").mkdir()
    for number in range(1011):
        Path(f"photos/{number:04}.png").write_text(str(number))
    given = ("card.json", "--data", "photos")
    written = rblite("attest", *given)
    assert "photos/0008.png\ndata       and 1,002 more; --json - names all\n" in written.output
    assert "0009.png" not in written.output
    assert "0009.png" in Path("card.intoto.json").read_text()
    Path("photos/0500.png").write_text("another")
    held = rblite("attest", *given, "--verify", "card.intoto.json")
    assert held.exit_code == 1
    assert "changed      data       photos/0500.png\n" in held.output
    assert "as attested  data       and 1,001 more" in held.output
