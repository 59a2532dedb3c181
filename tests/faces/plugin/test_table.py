"""[tool.robustbench_lite] of pyproject.toml."""

from __future__ import annotations

import pytest

TABLE = """
[tool.robustbench_lite]
data = "digits"
suites = ["robustness.toml"]
limit = 20

[tool.robustbench_lite.targets]
plain = "models.py:plain"
"""


def test_every_fault_is_told_with_its_key(run):
    done = run(
        "robustness.toml",
        table="""
        [tool.robustbench_lite]
        data = 3
        suits = ["a"]
        limit = 0
        threats = ["Linf 8/255", "Linf nine"]

        [tool.robustbench_lite.targets]
        resnet = { model = "m:b", weigths = "w" }
        odd = { model = "m:b", gates = { min_clean = 1 } }

        [tool.robustbench_lite.gates]
        min_robust_acuracy = 0.4
        max_drop = 40
        min_clean_accuracy = "high"
        """,
    )
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(
        [
            "ERROR: pyproject.toml: [[]tool.robustbench_lite[]] is not valid",
            "  targets.resnet.weigths: unknown key 'weigths': did you mean weights*",
            "  data: expected a valid string",
            "  threats.1: eps is 'nine': expected a number or a fraction*",
            "  limit: expected greater than or equal to 1",
            "  suits: unknown key 'suits': did you mean suites?",
            "  gates: unknown gate 'min_robust_acuracy': did you mean min_robust_accuracy*",
            "  gates: max_drop is 40: expected a share*",
            "  gates: min_clean_accuracy is 'high': expected a number",
            "  targets.odd.gates: unknown gate 'min_clean': did you mean *min_clean_accuracy*",
        ]
    )


@pytest.mark.parametrize(("said", "adapted"), [("adapt = true", True), ("adapt = false", False), ("", False)])
def test_the_table_says_whether_it_is_adaptive(project, run, said, adapted):
    table = TABLE.replace("limit = 20", f"limit = 20\n{said}").replace('"models.py:plain"', '"models.py:soft"')
    run("robustness.toml", "--robustness-json", "card.json", table=table)
    text = (project.path / "card.json").read_text(encoding="utf-8")
    assert ('"adaptation"' in text) == adapted


def test_suites_that_are_not_there(run):
    done = run(table=TABLE.replace('"robustness.toml"', '"gone.toml", "linf_quik"'))
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(
        ["*suites: suite 'gone.toml': no such file", "*unknown suite 'linf_quik': did you mean linf_quick*"]
    )


@pytest.mark.parametrize("text", ["[tool.robustbench_lite\n", "[tool]\nrobustbench_lite = 3\n"])
def test_a_file_that_is_none(run, text):
    assert run(table=text).ret == pytest.ExitCode.USAGE_ERROR


def test_a_table_that_is_not_collected_disturbs_nobody(project, run):
    project.makepyfile(test_plain="def test_plain(): pass")
    assert run("test_plain.py", table="[tool.robustbench_lite]\nsuites = 3\n").ret == 0


def test_it_is_collected_beside_testpaths(project, run):
    project.mkdir("tests").joinpath("test_plain.py").write_text("def test_plain(): pass")
    done = run("--collect-only", "-q", table='[tool.pytest.ini_options]\ntestpaths = ["tests"]\n' + TABLE)
    done.stdout.fnmatch_lines(["tests/test_plain.py::test_plain", "robustness.toml::plain::clean-accuracy"])
    run("--collect-only", "-q", "tests").stdout.no_fnmatch_line("robustness.toml*")


def test_the_command_line_goes_before_it(run):
    done = run("robustness.toml", "--target", "models.py:weak", "--threat", "L2 0.1", "--co", "-q", table=TABLE)
    done.stdout.fnmatch_lines(["robustness.toml::models.py:weak::L2-0.1::pgd"])
    done.stdout.no_fnmatch_line("*::plain::*")


def test_a_target_is_chosen_by_its_name(run):
    more = TABLE + 'weak = { model = "models.py:weak", gates = { min_clean_accuracy = 0.9 } }\n'
    done = run("--target", "weak", table=more)
    done.stdout.fnmatch_lines(["*clean accuracy is*at least 90.0% is demanded*", "FAIL*robustness.toml::weak*"])
    done.assert_outcomes(failed=1, passed=4)


def test_gates_that_need_a_baseline(run):
    done = run(table=TABLE + "[tool.robustbench_lite.gates]\nmax_regression = 0.1\n")
    done.stdout.fnmatch_lines(["max_regression is set, and there is no baseline*"])
    assert done.ret == pytest.ExitCode.INTERRUPTED


def test_the_data_are_read_as_the_table_says(project, run):
    said = 'limit = 20\nresize = "8x8"\ncrop = 8\nlabel_map = { "0" = 1, "1" = 0 }'
    done = run("robustness.toml", table=TABLE.replace("limit = 20", said))
    done.stdout.fnmatch_lines(["*label map: says nothing of 8 labels of digits/test (2, 3, 4, 5, 6, 7, 8, 9)*"])
    same = ", ".join(f'"{label}" = {label}' for label in range(10))
    said = f'limit = 20\nresize = "8x8"\nlabel_map = {{ {same} }}'
    run("robustness.toml", "--robustness-json", "card.json", table=TABLE.replace("limit = 20", said))
    text = (project.path / "card.json").read_text(encoding="utf-8")
    assert "each picture is resized to 8x8; labels are the model's classes by the map 0=0, 1=1" in text
