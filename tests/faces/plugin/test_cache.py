"""Nothing is run that need not be: answers from the cache, runs that go on, witnesses replayed, gates settled early."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.forked import PYTEST, Forked

from .conftest import SLOW, asked

SUITE = ("robustness.toml", "--data", "digits", "--limit", "40")
PLAIN = (*SUITE, "--target", "models.py:plain")


def results(path):
    """A scorecard as JSON, without what tells when it was made."""
    card = json.loads(path.read_text(encoding="utf-8"))
    del card["sha256"]  # of all that it holds, times included; the hashes of data and weights stay

    def timeless(value):
        if isinstance(value, dict):
            return {key: timeless(one) for key, one in value.items() if key not in ("seconds", "created", "gallery")}
        if isinstance(value, list):
            return [timeless(one) for one in value]
        return pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value

    return timeless(card)


def test_an_unchanged_model_is_answered_from_the_cache(project, run):
    run(*PLAIN, "--robustness-json", "one.json").stdout.no_fnmatch_line("*from the cache*")
    assert (project.path / ".robustbench" / "cache" / ".gitignore").is_file()
    done = run(*PLAIN, "--robustness-json", "two.json")
    done.assert_outcomes(passed=5)
    done.stdout.fnmatch_lines(["*models.py:plain*from the cache*"])
    assert (project.path / "one.json").read_bytes() == (project.path / "two.json").read_bytes()
    run(*PLAIN, "--threat", "Linf 0.06").stdout.no_fnmatch_line("*from the cache*")


def test_gates_are_held_against_an_answer_from_the_cache(run):
    run(*PLAIN).assert_outcomes(passed=5)
    done = run(*PLAIN, table="[tool.robustbench_lite.gates]\nmin_clean_accuracy = 1.0\n")
    done.assert_outcomes(failed=1, passed=4)
    done.stdout.fnmatch_lines(["FAIL*from the cache*"])


@pytest.mark.parametrize(
    ("said", "table", "expected"),
    [
        (["--robustness-no-cache"], "", None),
        ([], "cache = false", None),
        ([], 'cache = "kept/here"', "kept/here"),
        (["--robustness-cache", "elsewhere"], "cache = false", "elsewhere"),
        (["--robustness-cache=elsewhere", "--robustness-no-cache"], "", None),
    ],
)
def test_the_cache_is_where_the_user_says(project, run, said, table, expected):
    for _ in range(2):
        done = run(*PLAIN, *said, table=f"[tool.robustbench_lite]\n{table}\n")
        assert done.ret == 0
    assert ("from the cache" in done.stdout.str()) == (expected is not None)
    assert not (project.path / ".robustbench" / "cache").exists()
    assert expected is None or (project.path / expected).is_dir()


def test_a_default_folder_that_cannot_be_made_is_a_warning(project, run):
    (project.path / ".robustbench").write_text("a file in the place of the folder")
    assert run(*PLAIN, "-Werror").ret == 0
    done = run(*PLAIN, "-Wdefault")
    assert done.ret == 0
    done.stdout.fnmatch_lines(["*PytestWarning: robustbench_lite keeps no evaluations: *can't be written*"])


@pytest.mark.parametrize("text", ["cache = 3", 'cache = ""', 'corpus = ["a"]'])
def test_a_folder_that_is_none(run, text):
    done = run("robustness.toml", table=f"[tool.robustbench_lite]\n{text}\n")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines([f"*{text.partition(' ')[0]}: *expected the name of a folder, or true or false"])


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_a_session_that_was_killed_goes_on(project, run):
    project.makepyfile(slow=SLOW)
    project.syspathinsert()
    command = ["robustness.toml", "--data", "digits", "--limit", "150", "--target", "slow.py:slow"]
    cache = project.path / ".robustbench" / "cache"
    killed = Forked(PYTEST, *command, variables=os.environ | {"PAUSE": "0.1"})
    killed.wait_for(lambda: any(path.read_bytes().count(b"\n") for path in cache.glob("*/pgd-*.jsonl")))
    killed.kill()
    assert killed.returncode == -signal.SIGKILL

    passed = [sum(asked(project).values())]
    for more in (["--robustness-json", "rerun.json"], ["--robustness-no-cache", "--robustness-json", "whole.json"]):
        done = run(*command, *more)
        assert done.ret == 0
        assert "from the cache" not in done.stdout.str()
        passed.append(sum(asked(project).values()))
    rerun, whole = results(project.path / "rerun.json"), results(project.path / "whole.json")
    assert rerun["passes"] == whole["passes"]
    assert rerun["outcomes"] == whole["outcomes"]
    assert rerun == whole
    assert passed[1] - passed[0] < passed[2] - passed[1]


def test_witnesses_are_kept_and_replayed_first(project, run):
    run(*PLAIN).assert_outcomes(passed=5)  # and its answer, which kept no witnesses, is no answer to the next
    corpus = project.path / ".robustbench" / "corpus"
    # What follows the option is collected: it takes a value after = alone.
    done = run("--robustness-corpus", *PLAIN)
    done.assert_outcomes(passed=5)
    [file] = corpus.glob("*.npz")
    assert file.stat().st_size > 0
    run("--robustness-corpus", *SUITE, "--target", "models.py:weak", "--robustness-json", "weak.json")
    attacks = json.loads((project.path / "weak.json").read_text(encoding="utf-8"))["attacks"]
    assert attacks[0]["name"] == "replay"
    assert attacks[0]["broken"] > 0


@pytest.mark.parametrize(
    ("said", "table", "expected"),
    [
        (["--robustness-corpus=mine"], "", "mine"),
        ([], 'corpus = "theirs"', "theirs"),
        ([], "corpus = true", ".robustbench/corpus"),
        (["--robustness-corpus=mine"], "corpus = true", "mine"),
    ],
)
def test_the_corpus_is_where_the_user_says(project, run, said, table, expected):
    assert run(*PLAIN, *said, table=f"[tool.robustbench_lite]\n{table}\n").ret == 0
    assert [path.parent for path in project.path.rglob("*.npz") if "cache" not in path.parts] == [
        project.path / expected
    ]


GATES = "[tool.robustbench_lite]\n{}\n[tool.robustbench_lite.gates]\nmin_clean_accuracy = 0.3\n"
ALL = ("robustness.toml", "--data", "digits", "--target", "models.py:plain", "--robustness-json", "card.json")


SOFT = ("robustness.toml", "--data", "digits", "--target", "models.py:soft", "--limit", "20")
ADAPT = "--robustness-adapt"


def card(project):
    return json.loads((project.path / "card.json").read_text(encoding="utf-8"))


def test_an_adapted_evaluation_is_not_the_plain_one_of_the_cache(project, run):
    for said in ([], [ADAPT], [], [ADAPT]):
        run(*SOFT, *said, "--robustness-json", "card.json", table="[tool.robustbench_lite]\n")
        found = card(project)
        assert ("adaptation" in found) == bool(said)
        assert any(one["code"] == "RB121" for one in found["validity"]) != bool(said)
    assert [one["name"] for one in found["adaptation"]["measures"]] == ["logits"]
    assert any(one["code"] == "RB121" for one in found["adaptation"]["validity"])


@pytest.mark.parametrize(("said", "table"), [(["--robustness-sequential"], ""), ([], "sequential = true")])
def test_settled_gates_end_the_run_and_the_saving_is_shown(project, run, said, table):
    done = run(*ALL, *said, table=GATES.format(table))
    done.assert_outcomes(passed=5)
    done.stdout.fnmatch_lines(["*settled after 128 of 539 samples, about 76% of the passes saved"])
    data = json.loads((project.path / "card.json").read_text(encoding="utf-8"))["data"]
    assert (data["samples"], data["planned"]) == (128, 539)


def test_a_baseline_is_of_all_samples(project, run):
    for said in (["--robustness-save", "main"], ["--robustness-compare", "main"]):
        done = run(*ALL, *said, "--robustness-sequential", table=GATES.format(""))
        assert done.ret == 0
        done.stdout.no_fnmatch_line("*settled after*")
        data = json.loads((project.path / "card.json").read_text(encoding="utf-8"))["data"]
        assert (data["samples"], data["planned"]) == (539, None)
