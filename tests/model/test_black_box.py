"""Targets that are no PyTorch module: what a function is given, what may come back, and what can be said of it."""

from __future__ import annotations

import io
import re
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from robustbench_lite import Scorecard, Target, evaluate, load_target
from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.cli import main
from robustbench_lite.model.black_box import state_sha256
from robustbench_lite.model.target import as_target
from tests.forked import ran

X = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
SCORES = np.linspace(-1, 1, 15).reshape(5, 3)
LABELS = np.array([0, 2, 1, 0, 2])
ROOM = {
    "__init__": 'CATALOGUE = {"corners": "corners:Corners", "blind": "corners:Blind", "climb": "corners:Climb"}',
    "corners": """
        from dataclasses import dataclass
        from typing import NamedTuple

        import torch
        from torch import Tensor

        from robustbench_lite.attacking.interface import Attack


        class State(NamedTuple):
            x: Tensor
            best: Tensor
            loss: Tensor


        @dataclass(frozen=True, kw_only=True)
        class Corners(Attack):
            "Flips pixels of a corner of the ball at random, and keeps what raises the loss."

            access = "scores"
            gradients = False
            steps: int = 60

            def _flipped(self, problem, best):
                draws = problem.noise.at(problem.step).uniform(tuple(best.shape[1:]))
                return torch.where(draws < 0.15, 2 * problem.x - best, best)

            def init(self, problem):
                signs = (problem.noise.uniform(tuple(problem.x.shape[1:])) - 0.5).sign()
                x = problem.x + problem.threat.eps * signs
                return State(x, x, torch.full((len(x),), -torch.inf, device=x.device))

            def step(self, problem, state, output):
                up = output.loss > state.loss
                best = torch.where(up.reshape(-1, 1, 1, 1), state.x, state.best)
                return State(self._flipped(problem, best), best, torch.where(up, output.loss, state.loss))


        class Blind(Corners):
            "Corners of the ball, one after the other."

            access = "labels"

            def step(self, problem, state, output):
                signs = (problem.noise.at(problem.step).uniform(tuple(problem.x.shape[1:])) - 0.5).sign()
                return state._replace(x=problem.x + problem.threat.eps * signs)


        class Climb(Corners):
            "Says that it needs scores, and asks for gradients."

            gradients = True
    """,
}


PROGRAMS = [
    "def f(x): return MODEL @ x",
    "def f(x, model=MODEL): return model @ x",
    "def g(x): return MODEL @ x\ndef f(x): return g(x)",
    "def g(x): return f(x)\ndef f(x): return MODEL @ g(x)",  # each refers to the other
    "def f(x): return f.model @ x\nf.model = MODEL",
    "def f(x):\n def g(): return MODEL\n return g() @ x",
    "class F:\n def __call__(self, x): return MODEL @ x\nf = F()",
    "class F:\n @staticmethod\n def g(x): return MODEL @ x\n def __call__(self, x): return F.g(x)\nf = F()",
    "class F:\n @property\n def g(self): return MODEL\n def __call__(self, x): return self.g @ x\nf = F()",
    "class F:\n held = MODEL\n def __call__(self, x): return self.held @ x\nf = F()",
    "import held_by_us\nheld_by_us.model = MODEL\ndef f(x): return held_by_us.model @ x",
    "import held_by_us\nheld_by_us.model = MODEL\ndef f(x):\n import held_by_us\n return held_by_us.model @ x",
]
"""Each makes a function ``f`` that reads ``MODEL`` on a way of its own."""


@pytest.fixture(autouse=True)
def room(tmp_path, monkeypatch) -> Path:
    """A working directory with attacks of one's own, which need no gradients."""
    (tmp_path / "attacks").mkdir()
    for name, text in ROOM.items():
        (tmp_path / "attacks" / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def digits():
    """Images, (N, 1, 8, 8), and labels: 900 to learn from, 60 to be tested on."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return images[:900], labels[:900], images[900:960], labels[900:960]


@pytest.fixture(scope="module")
def forest(digits):
    return RandomForestClassifier(20, random_state=0).fit(digits[0].reshape(900, -1), digits[1])


@pytest.fixture(scope="module")
def neighbours(digits):
    return KNeighborsClassifier().fit(digits[0].reshape(900, -1), digits[1])


@pytest.fixture(scope="module")
def target(forest):
    return Target.from_callable(lambda x: forest.predict_proba(x.reshape(len(x), -1)), name="forest")


@pytest.fixture(scope="module")
def card(make_card):
    skipped = [
        {"attack": attack, "threat": threat, "reason": "needs gradients; of the target only the scores are seen"}
        for threat in ("Linf 0.3", "L2 1")
        for attack in ("pgd", "<b>fab</b>")
    ]
    card = make_card(breaks={"square": 0.2}, threats=["Linf 0.3", "L2 1"])
    target = card.target.model_copy(update={"access": "scores", "parameters": 0, "weights_sha256": ""})
    return Scorecard.model_validate({**card.model_dump(), "target": target.model_dump(), "skipped": skipped})


def codes(card: Scorecard) -> set[str]:
    return {finding.code for finding in card.validity}


class TestTheFunction:
    """What it is given, and what it may return."""

    def test_it_gets_arrays_of_its_own(self):
        given = []

        def function(x):
            given.append(x.copy())
            x[:] = -1
            return SCORES

        before = X.clone()
        Target.from_callable(function)(X)
        (array,) = given
        assert isinstance(array, np.ndarray)
        assert (array.dtype, array.shape) == (np.float32, (5, 1, 4, 4))
        assert np.array_equal(array, before.numpy())
        assert torch.equal(X, before)

    @pytest.mark.parametrize(
        "returned",
        [
            SCORES,
            SCORES.astype(np.float32),
            SCORES.astype(np.longdouble),
            SCORES.tolist(),
            np.broadcast_to(SCORES, SCORES.shape),  # read-only
            SCORES[::-1][::-1],
            torch.from_numpy(SCORES),
            torch.from_numpy(SCORES).float().requires_grad_(),
        ],
        ids=["float64", "float32", "longdouble", "lists", "read-only", "strides", "tensor", "with-graph"],
    )
    def test_scores_come_back_as_they_are(self, returned):
        target = Target.from_callable(lambda x: returned)
        assert target.probe(X) == 3
        assert target.access == "scores"
        out = target(X.requires_grad_())
        X.requires_grad_(False)
        assert not out.requires_grad
        np.testing.assert_allclose(out.numpy(), SCORES, rtol=1e-6)

    @pytest.mark.parametrize("kind", [np.float16, torch.bfloat16])
    def test_half_precision_is_widened(self, kind):
        scores = torch.from_numpy(SCORES).to(kind) if isinstance(kind, torch.dtype) else SCORES.astype(kind)
        out = Target.from_callable(lambda x: scores)(X)
        assert out.dtype == torch.float32
        np.testing.assert_allclose(out.numpy(), SCORES, atol=0.01)

    @pytest.mark.parametrize(
        "returned", [LABELS, LABELS.astype(np.uint8), LABELS.tolist(), torch.from_numpy(LABELS), LABELS == 2]
    )
    def test_labels_become_scores_of_nought_and_one(self, returned):
        target = Target.from_callable(lambda x: returned, classes=4)
        assert target.probe(X) == 4
        assert target.access == "labels"
        assert torch.equal(target(X), nn.functional.one_hot(torch.as_tensor(returned).long(), 4).float())

    def test_scores_can_be_hidden_but_not_that_they_are_no_numbers(self):
        scores = SCORES.copy()
        scores[1, 0] = np.nan
        target = Target.from_callable(lambda x: scores, access="labels")
        out = target(X)
        assert target.access == "labels"
        assert out[1].isnan().all()
        assert torch.equal(out[[0, 2, 3, 4]], torch.eye(3, dtype=torch.float64)[[2, 2, 2, 2]])
        with pytest.raises(UserError, match="NaN or infinity"):
            target.probe(X)

    @pytest.mark.parametrize(
        ("returned", "options", "told"),
        [
            (
                SCORES[:, 0],
                {},
                r"returned float64 of shape \(5,\) for 5 inputs: expected the scores as floats, \(5, K\)",
            ),
            (SCORES[:4], {}, r"shape \(4, 3\) for 5 inputs"),
            (LABELS[:4], {}, r"shape \(4,\) for 5 inputs"),
            (SCORES[None], {}, r"shape \(1, 5, 3\)"),
            (LABELS[:, None], {}, r"int64 of shape \(5, 1\)"),
            (np.array(list("abcde")), {}, "returned <U1"),
            (None, {}, "returned object"),
            (LABELS, {}, "don't tell how many classes there are; give classes"),
            (LABELS - 1, {"classes": 3}, "label -1 is none of the 3 classes; number them from 0"),
            (LABELS, {"classes": 2}, "label 2 is none of the 2 classes"),
            (LABELS, {"classes": 3, "access": "scores"}, "labels, not scores"),
            (SCORES, {"classes": 4}, "expected 4 columns"),
            (SCORES[:, :1], {}, "1 logit a sample"),
            (SCORES + np.inf, {}, "NaN or infinity"),
        ],
    )
    def test_what_is_neither_is_told_with_its_name(self, returned, options, told):
        with pytest.raises(UserError, match=told) as raised:
            Target.from_callable(lambda x: returned, name="mine", **options).probe(X)
        assert str(raised.value).startswith("mine: ")

    def test_what_it_raises_is_told_as_of_a_module(self):
        def ragged(x):
            return 1 / 0

        with pytest.raises(UserError, match=r"ragged: the forward pass fails on inputs of shape .*ZeroDivisionError"):
            Target.from_callable(ragged).probe(X)

    def test_it_has_no_gradients_and_cant_be_trained(self):
        target = Target.from_callable(lambda x: SCORES)
        assert list(target.module.parameters()) == []
        with target.attacking():
            target(X)
        with pytest.raises(UserError, match="can't be trained"):
            target.module.train()


class TestTheTarget:
    """How one is made and named."""

    def test_a_name_is_found_for_anything_that_can_be_called(self, forest):
        class Model:
            def __call__(self, x):
                return SCORES

        def mine(x):
            return SCORES

        made = [as_target(one).name for one in (mine, lambda x: SCORES, Model(), forest.predict)]
        assert made == ["mine", "function", "Model", "predict"]
        assert Target.from_callable(mine, name="other").name == "other"

    @pytest.mark.parametrize(
        ("given", "options", "told"),
        [
            (SCORES, {}, "object of type ndarray is no function of numpy arrays"),
            (nn.Flatten(), {}, r"type Flatten .*a torch\.nn\.Module is a target as it is"),
            (nn.Flatten, {}, "Flatten is no function"),
            (len, {"access": "gradients"}, "expected 'scores' or 'labels'"),
            (len, {"classes": 1}, "classes is 1: expected 2 or more"),
        ],
    )
    def test_what_can_be_none_is_refused(self, given, options, told):
        with pytest.raises(UserError, match=told):
            Target.from_callable(given, **options)

    def test_what_is_neither_module_nor_function_is_refused_with_both(self):
        with pytest.raises(UserError, match=r"expected a torch\.nn\.Module .*Target\.from_callable"):
            as_target("resnet18")  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["make", "READY"])
    def test_a_spec_leads_to_one(self, room, name):
        (room / "mine.py").write_text(
            "import numpy as np\n"
            "from robustbench_lite import Target\n"
            "READY = Target.from_callable(lambda x: np.zeros((len(x), 3)), name='ready')\n"
            "def make():\n    return READY\n"
        )
        target = load_target(f"mine.py:{name}", device="cpu")
        assert (target.name, target.probe(X), target.access) == ("ready", 3, "scores")

    @pytest.mark.parametrize(("name", "told"), [("scores", "needs an argument 'x'"), ("make", "returned function")])
    def test_a_spec_that_leads_to_a_bare_function_is_told_the_way(self, room, name, told):
        (room / "bare.py").write_text("def scores(x):\n    return x\n\ndef make():\n    return scores\n")
        with pytest.raises(UserError, match=rf"{told}.*Target\.from_callable\(function\)"):
            load_target(f"bare.py:{name}")


class TestWhatItHolds:
    """The hash that stands for a function: equal where it does the same, another or none where that can't be told."""

    def test_it_follows_what_the_function_closes_over(self, forest, neighbours):
        def of(model, shift=0.0):
            return lambda x: model.predict_proba(x.reshape(len(x), -1) + shift)

        assert state_sha256(of(forest)) == state_sha256(of(forest))
        kinds = {state_sha256(one) for one in (of(forest), of(forest, 0.1), of(neighbours), forest.predict_proba)}
        assert len(kinds) == 4
        assert "" not in kinds

    def test_a_model_fitted_again_is_another(self, digits):
        model = KNeighborsClassifier().fit(digits[0].reshape(900, -1), digits[1])
        target = Target.from_callable(model.predict)
        before = target.weights_sha256()
        model.fit(digits[0][:100].reshape(100, -1), digits[1][:100])
        assert target.weights_sha256() != before

    @pytest.mark.parametrize("source", PROGRAMS)
    @pytest.mark.parametrize("model", ["numpy.arange(3.0) + {}", "torch.arange(3.0) + {}"])
    def test_it_follows_the_globals_that_code_reads(self, room, monkeypatch, source, model):
        monkeypatch.syspath_prepend(str(room))
        monkeypatch.delitem(sys.modules, "held_by_us", raising=False)
        (room / "held_by_us.py").touch()

        def held(value: int) -> str:
            scope: dict = {"__name__": "__main__", "numpy": np, "torch": torch, "UNUSED": threading.Lock()}
            exec(f"MODEL = {model.format(value)}\n{source}", scope)
            return state_sha256(scope["f"])

        assert held(0) == held(0) != held(1)
        assert held(0) != ""

    def test_what_can_not_be_read_has_none(self):
        lock = threading.Lock()

        def function(x):
            with lock:
                return SCORES

        target = Target.from_callable(function)
        assert state_sha256(function) == ""
        assert target.weights_sha256() == target.info().weights_sha256 == ""

    def test_it_is_the_same_in_another_process(self, room, capsys):
        program = textwrap.dedent("""
            import numpy as np
            from sklearn.ensemble import RandomForestClassifier
            from robustbench_lite.model.black_box import state_sha256

            dice = np.random.default_rng(0)
            model = RandomForestClassifier(3, random_state=0).fit(dice.random((40, 4)), np.arange(40) % 3)

            def scores(x):
                return model.predict_proba(x.reshape(len(x), -1))

            print(state_sha256(scores))
        """)
        (room / "program.py").write_text(program)
        exec(program, {"__name__": "__main__"})
        other = ran(f"import runpy; runpy.run_path({str(room / 'program.py')!r}, run_name='__main__')")
        assert other.returncode == 0, other.stderr
        there = other.stdout
        assert there == capsys.readouterr().out
        assert len(there.strip()) == 64


class TestAnEvaluation:
    """A forest and neighbours are attacked as a network is, as far as they let themselves be seen."""

    def test_a_forest_is_broken_by_what_sees_its_scores(self, forest, digits, target):
        card = evaluate(target, digits[2:], ["corners", "pgd", "blind", "fgsm"], "Linf 0.15", keep_witnesses=True)
        right = forest.predict(digits[2].reshape(60, -1)) == digits[3]
        assert card.clean_accuracy.count == right.sum()
        assert card.robust_accuracy.value < card.clean_accuracy.value - 0.2
        assert card.target.access == "scores"
        assert [result.name for result in card.attacks] == ["corners", "blind"]
        assert [(one.attack, one.threat, one.reason) for one in card.skipped] == [
            ("pgd", "Linf 0.15", "needs gradients; of the target only the scores are seen"),
            ("fgsm", "Linf 0.15", "needs gradients; of the target only the scores are seen"),
        ]
        assert card.validity == ()
        assert card.verdict == "MEASURED"
        assert card.passes.backward == 0
        for row, x in zip(card.witnesses.index, card.witnesses.x, strict=True):
            assert np.abs(x - digits[2][row]).max() <= 0.15 + 1e-6
            assert forest.predict(x.reshape(1, -1))[0] != digits[3][row]

    @pytest.mark.skipif("spatial" not in registry.names("attacks"), reason="there is no spatial attack")
    def test_neighbours_are_broken_by_rotations_that_see_labels_alone(self, neighbours, digits):
        card = evaluate(
            lambda x: neighbours.predict(x.reshape(len(x), -1)), digits[2:], ["spatial"], "Spatial 30", limit=30
        )
        assert card.target.access == "labels"
        assert card.data.classes == tuple("0123456789")
        assert card.robust_accuracy.value < card.clean_accuracy.value - 0.2
        assert card.verdict == "MEASURED"

    def test_the_suite_for_black_boxes_runs_as_far_as_it_is_let(self, digits, target):
        few = (digits[2][:2], digits[3][:2])
        for access, count in (("scores", 2), ("labels", 1)):
            hidden = Target.from_callable(target.module.function, access=access)
            card = evaluate(hidden, few, "black_box", "Linf 0.4")
            assert (len(card.attacks), len(card.skipped)) == (count, 2 - count)
            assert card.robust_accuracy.count < card.clean_accuracy.count
            assert [one.code for one in card.validity] == ["RB116"]  # of two samples

    def test_scores_break_more_than_labels(self, forest, digits, target):
        hidden = Target.from_callable(target.module.function, access="labels")
        blind = evaluate(hidden, digits[2:], ["corners", "blind"], "Linf 0.1")
        seen = evaluate(target, digits[2:], ["corners", "blind"], "Linf 0.1")
        assert [one.attack for one in blind.skipped] == ["corners"]
        assert blind.skipped[0].reason == "needs scores; of the target only the labels are seen"
        assert seen.skipped == ()
        assert seen.robust_accuracy.count < blind.robust_accuracy.count

    def test_every_sample_that_is_asked_about_is_counted(self, neighbours, digits):
        asked = []

        def counting(x):
            asked.append(len(x))
            return neighbours.predict(x.reshape(len(x), -1))

        for given in (counting, Target.from_callable(counting, access="labels")):
            asked.clear()
            card = evaluate(given, digits[2:], ["blind"], "Linf 0.1")
            assert sum(asked) == card.passes.forward == sum(row.passes.forward for row in card.outcomes)
            assert codes(card) == set()  # what it holds has changed; its answers haven't

    def test_the_number_of_classes_is_given_or_the_datas(self, digits):
        few = (digits[2][digits[3] < 3], digits[3][digits[3] < 3])
        target = Target.from_callable(lambda x: np.zeros(len(x), int))
        assert evaluate(target, few, ["blind"], "Linf 0.1").data.classes == ("0", "1", "2")
        assert len(evaluate(target, digits[2:], ["blind"], "Linf 0.1").data.classes) == 10
        with pytest.raises(
            UserError, match=r"label 9 is none of the 3 classes.*give classes where the data don't show"
        ):
            evaluate(lambda x: np.full(len(x), 9), few, ["blind"], "Linf 0.1")
        told = Target.from_callable(lambda x: np.full(len(x), 9), classes=10)
        assert evaluate(told, few, ["blind"], "Linf 0.1").clean_accuracy.count == 0

    def test_nothing_left_to_run_names_what_can(self, digits, target):
        with pytest.raises(
            UserError, match=r"only the scores are seen, and fgsm, sprints need more; .*suite black_box, .*corners"
        ) as raised:
            evaluate(target, digits[2:], "linf_quick", "Linf 0.1")
        assert "pgd" not in str(raised.value).partition("attacks such as")[2]
        with pytest.raises(UserError, match="only the labels are seen, and corners need more") as raised:
            evaluate(lambda x: np.zeros(len(x), int), digits[2:], ["corners"], "Linf 0.1")
        assert "blind" in str(raised.value).partition("attacks such as")[2]

    def test_an_attack_that_asks_for_gradients_all_the_same_is_found_out(self, digits, target):
        card = evaluate(target, digits[2:], ["climb"], "Linf 0.1")
        assert "RB201" in codes(card)
        assert card.verdict == "INVALID"

    def test_a_function_that_answers_at_random_is_invalid(self, digits):
        dice = np.random.default_rng(0)
        card = evaluate(lambda x: dice.random((len(x), 10)), digits[2:], ["blind"], "Linf 0.1")
        assert "RB101" in codes(card)

    def test_one_that_fails_in_an_attack_is_a_finding(self, digits, neighbours):
        def brittle(x):
            if not np.isin(x * 16, range(17)).all():
                raise OSError("the service is gone")
            return neighbours.predict(x.reshape(len(x), -1))

        card = evaluate(brittle, digits[2:], ["blind"], "Linf 0.1")
        assert "RB302" in codes(card)
        assert "the service is gone" in card.attacks[0].fault

    def test_a_module_is_attacked_as_ever(self, digits):
        card = evaluate(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits[2:], ["fgsm", "blind"], "Linf 0.1")
        assert card.target.access == "gradients"
        assert card.skipped == ()


class TestTheCache:
    """A hit only where the function is known to be the same."""

    def test_an_unchanged_function_is_answered_and_a_changed_one_asked(self, digits, room):
        model = KNeighborsClassifier(1).fit(digits[0].reshape(900, -1), digits[1])

        def ask() -> Scorecard:
            function = Target.from_callable(lambda x: model.predict(x.reshape(len(x), -1)))
            return evaluate(function, digits[2:], ["blind"], "Linf 0.1", cache=room / "cache")

        first = ask()
        assert ask() == first
        model.fit(digits[0][:50].reshape(50, -1), digits[1][:50])
        assert ask().clean_accuracy.count < first.clean_accuracy.count

    def test_what_is_hidden_is_part_of_the_question(self, digits, forest, room):
        def ask(access: str) -> Scorecard:
            function = Target.from_callable(lambda x: forest.predict_proba(x.reshape(len(x), -1)), access=access)
            return evaluate(function, digits[2:], ["corners", "blind"], "Linf 0.05", cache=room / "cache")

        assert [len(ask(access).skipped) for access in ("scores", "labels", "scores")] == [0, 1, 0]

    def test_what_can_not_be_read_is_always_asked_and_that_is_said(self, digits, room, caplog):
        lock, value = threading.Lock(), [3]

        def function(x):
            with lock:
                return np.full(len(x), value[0])

        first = evaluate(function, digits[2:], ["blind"], "Linf 0.1", cache=room / "cache")
        value[0] = 4
        second = evaluate(function, digits[2:], ["blind"], "Linf 0.1", cache=room / "cache")
        assert [first.outcomes[0].prediction, second.outcomes[0].prediction] == [3, 4]
        assert "function: what it holds can't be read" in caplog.text
        assert not (room / "cache").exists()


class TestWhatIsShown:
    """A reader learns what the target showed, and what wasn't run for it."""

    def shown(self, card, form: str) -> str:
        found = registry.find("reports", form)([card])
        if isinstance(found, str):
            return found
        Console(file=(buffer := io.StringIO()), width=80).print(found)
        return " ".join(buffer.getvalue().split())

    @pytest.mark.parametrize("form", ["terminal", "html", "markdown"])
    def test_every_report_tells_it(self, card, form):
        text = self.shown(card, form)
        assert "Black box: only score- and decision-based attacks ran" in text
        assert text.count("left out: pgd and ") == 1
        assert "(needs gradients; of the target only the scores are seen)" in text
        assert "0 parameters" not in text
        assert form == "terminal" or "<b>fab" not in text

    @pytest.mark.parametrize("form", ["terminal", "html", "markdown"])
    def test_of_a_module_nothing_is_told(self, make_card, form):
        text = self.shown(make_card(), form)
        assert "Black box" not in text
        assert "left out" not in text

    def test_labels_are_called_labels(self, card):
        labels = card.model_copy(update={"target": card.target.model_copy(update={"access": "labels"})})
        text = self.shown(labels, "terminal")
        assert "only decision-based attacks ran" in text
        assert "labels only" in text

    def test_the_card_is_saved_and_loaded(self, card, tmp_path):
        assert Scorecard.load(card.save(tmp_path / "card.json")) == card


def test_the_command_line_takes_one(room):
    (room / "mine.py").write_text(
        textwrap.dedent("""
        from sklearn.neighbors import KNeighborsClassifier
        from robustbench_lite import Target, load_data

        def make():
            train = load_data("digits", split="train")
            model = KNeighborsClassifier().fit(train.fetch(range(300)).flatten(1), train.labels[:300])
            return Target.from_callable(lambda x: model.predict_proba(x.reshape(len(x), -1)), name="neighbours")
        """)
    )
    (room / "mine.toml").write_text('threats = ["Linf 0.1"]\nattacks = ["pgd", "corners"]\n')
    asked = ["evaluate", "mine.py:make", "--data", "digits", "--limit", "30", "--json", "card.json"]
    ran = CliRunner().invoke(main, [*asked, "--suite", "mine.toml"])
    assert ran.exit_code == 0, ran.output
    assert "Black box" in ran.output
    assert Scorecard.load("card.json").target.name == "neighbours"
    ran = CliRunner().invoke(main, [*asked, "--suite", "linf_quick"])
    assert ran.exit_code == 2
    assert "only the scores are seen" in " ".join(ran.output.split())


def test_what_the_docs_show_runs(capsys):
    text = (Path(__file__).parents[2] / "docs" / "black_box.md").read_text(encoding="utf-8")
    [program] = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict = {}
    exec(program, names)
    assert capsys.readouterr().out.startswith("scores\n")
    assert names["card"].robust_accuracy.value < names["card"].clean_accuracy.value
