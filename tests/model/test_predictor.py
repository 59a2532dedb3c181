"""Models in all the forms that users have: each is asked as it must be, and answers as the plain model does."""

from __future__ import annotations

import collections
import re
import warnings

import pytest
import torch
from torch import nn

from robustbench_lite import Target, evaluate
from robustbench_lite.core.errors import ModelError, UserError
from robustbench_lite.model.black_box import BlackBox
from robustbench_lite.model.predictor import FunctionPredictor, ModulePredictor

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

SHAPE = (3, 6, 6)
Output = collections.namedtuple("Output", "features logits")


def plain(classes: int = 4) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, classes)).eval()


def data(samples: int = 33, classes: int = 4):
    """Samples that the plain model gets right, but for each tenth; 33, so that the last batch of 32 is one sample."""
    x = torch.rand(samples, *SHAPE, generator=torch.Generator().manual_seed(1))
    y = plain(classes)(x).argmax(1).detach()
    y[::10] = (y[::10] + 1) % classes
    return x, y


class Ends(nn.Module):
    """The plain model with another end."""

    def __init__(self, end, classes: int = 4) -> None:
        super().__init__()
        self.model, self.end = plain(classes), end

    def forward(self, x):
        return self.end(self.model(x))


class Fixed(nn.Module):
    """Reshapes to a batch of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.model = plain()

    def forward(self, x):
        return self.model[3](self.model[:2](x).reshape(16, -1))


class View(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = plain()

    def forward(self, x):
        return self.model(x.view(len(x), -1).view(x.shape))


def exported(size: int = 4, *, dynamic: bool = False):
    shapes = {"input": {0: torch.export.Dim("batch", min=2, max=512)}} if dynamic else None
    return torch.export.export(plain(), (torch.rand(size, *SHAPE),), dynamic_shapes=shapes, strict=False)


def frozen_script():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is announced to go
        return torch.jit.freeze(torch.jit.script(plain()))


def half():
    return plain().bfloat16()


def born_in_inference_mode():
    with torch.inference_mode():
        return plain()


FORMS = {
    "squeeze": lambda: Ends(lambda z: z.squeeze()),
    "logits attribute": lambda: Ends(lambda z: Output(z[:, :2], z)),
    "logits key": lambda: Ends(lambda z: {"loss": z.sum(), "logits": z}),
    "tuple of one": lambda: Ends(lambda z: (z,)),
    "list with more than tensors": lambda: Ends(lambda z: ["text", z, None]),
    "masked classes": lambda: Ends(lambda z: torch.cat([z, torch.full((len(z), 2), -torch.inf)], 1)),
    "fixed batch": Fixed,
    "view": View,
    "exported program": lambda: exported(),
    "exported module": lambda: exported(dynamic=True).module(),
    "frozen script": frozen_script,
    "data parallel": lambda: nn.DataParallel(plain()),
    "compiled": lambda: torch.compile(plain(), backend="eager"),
    "bfloat16": half,
    "inference mode": born_in_inference_mode,
}


@pytest.fixture(scope="module")
def expected():
    return evaluate(plain(), data(), ["pgd"], "Linf 0.02", batch_size=32)


@pytest.mark.parametrize("name", FORMS)
def test_an_evaluation_says_of_each_form_what_it_says_of_the_plain_model(name, expected):
    card = evaluate(FORMS[name](), data(), ["pgd"], "Linf 0.02", batch_size=32)
    assert [one.message for one in card.validity if one.severity == "error"] == []
    assert not [one.code for one in card.validity if "fail" in one.message]
    if name != "bfloat16":
        assert card.clean_accuracy == expected.clean_accuracy
        assert card.robust_accuracy == expected.robust_accuracy
    assert card.clean_accuracy.value == pytest.approx(expected.clean_accuracy.value, abs=0.1)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("squeeze", "no batch dimension"),
        ("logits attribute", "taken from 'logits'"),
        ("tuple of one", "taken from 0"),
        ("masked classes", r"2 classes are masked by minus infinity \(4, 5\)"),
        ("fixed batch", "batches of 16 and no others"),
        ("exported program", "batches of 4 and no others"),
        ("compiled", "it is compiled"),
    ],
)
def test_what_is_done_to_be_able_to_ask_is_told(name, told):
    card = evaluate(FORMS[name](), data(), ["fgsm"], "Linf 0.02", batch_size=32)
    [finding] = [one for one in card.validity if one.code == "RB107"]
    assert finding.severity == "info"
    assert re.search(told, finding.message)


def test_a_model_that_is_asked_as_it_is_has_no_such_note():
    card = evaluate(plain(), data(), ["fgsm"], "Linf 0.02")
    assert "RB107" not in {one.code for one in card.validity}


# Heads with one logit


@pytest.mark.parametrize(
    "end", [lambda z: z[:, 1:] - z[:, :1], lambda z: z[:, 1] - z[:, 0], lambda z: (z[:, 1:] - z[:, :1]).squeeze()]
)
def test_one_logit_stands_for_two(end):
    x, y = data(33, 2)
    single = evaluate(Ends(end, 2), (x, y), ["pgd"], "Linf 0.02", batch_size=32)
    double = evaluate(plain(2), (x, y), ["pgd"], "Linf 0.02", batch_size=32)
    assert single.clean_accuracy == double.clean_accuracy
    assert single.robust_accuracy == double.robust_accuracy
    alike = {"RB107", *(one.code for one in double.validity)}
    assert {one.code for one in single.validity if one.code.startswith("RB1")} == alike


def test_one_probability_is_no_logit():
    card = evaluate(Ends(lambda z: (z[:, 1] - z[:, 0]).sigmoid(), 2), data(33, 2), ["pgd"], "Linf 0.02")
    assert card.verdict == "INVALID"
    assert "take the sigmoid off" in next(one.cure for one in card.validity if one.code == "RB121")


def test_a_mean_over_the_batch_is_not_taken_for_one_logit_a_sample():
    x, y = data(33, 2)
    with pytest.raises(UserError, match=r"it returns \(2,\) for 32 inputs"):
        evaluate(Ends(lambda z: z.mean(0), 2), (x, y), ["pgd"], "Linf 0.02", batch_size=32)


# Which of several tensors


@pytest.mark.parametrize("output", ["b", 1])
def test_the_user_says_which_tensor_the_logits_are(output):
    pair = {"b": lambda z: {"a": z[:, :2], "b": z}, 1: lambda z: (z[:, :2], z)}[output]
    with pytest.raises(UserError, match="say which they are"):
        Target(Ends(pair)).probe(data()[0])
    target = Target(Ends(pair), output=output)
    assert target.probe(data()[0]) == 4
    assert torch.equal(target(data()[0]), plain()(data()[0]))
    assert target.weights_sha256() != Target(Ends(pair)).weights_sha256()


def test_an_output_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(UserError, match=r"dict with 'a', 'b': there is no output 'c' in it"):
        Target(Ends(lambda z: {"a": z, "b": z}), output="c").probe(data()[0])


# Masks


def test_infinities_that_are_no_mask_are_refused():
    def some(z):
        return z.masked_fill(z < z.median(), -torch.inf)

    with pytest.raises(UserError, match="NaN or infinity"):
        Target(Ends(some)).probe(data()[0])


def test_a_masked_class_is_kept_below_all_others_and_its_rank_takes_no_gradient():
    target = Target(FORMS["masked classes"]())
    x = data()[0].requires_grad_()
    logits = target(x)
    assert (logits[:, 4:].amax(1) < logits[:, :4].amin(1)).all()
    assert not torch.autograd.grad(logits[:, 4:].sum(), x, allow_unused=True)[0].any()


# Batches


def test_a_compiled_module_is_compiled_for_few_sizes():
    seen = []

    def backend(graph, inputs):
        seen.append(tuple(inputs[0].shape))
        return graph.forward

    target = Target(torch.compile(plain(), backend=backend, dynamic=False))
    with torch.no_grad(), target.attacking():
        for size in range(1, 34):
            assert target(torch.rand(size, *SHAPE)).shape == (size, 4)
    assert set(target.predictor.batching.calls) == {8, 32, 128}
    assert len(seen) == 3


def test_what_is_filled_in_takes_no_gradient():
    target, x = Target(Fixed()), data(20)[0].requires_grad_()
    target.probe(x[:2].detach())
    grad = torch.autograd.grad(target(x).logsumexp(1).sum(), x)[0]
    expected = torch.autograd.grad(plain()(x).logsumexp(1).sum(), x)[0]
    torch.testing.assert_close(grad, expected)


def test_a_fault_that_does_not_come_again_is_none_of_sizes():
    calls = []

    def once(z):
        calls.append(len(z))
        if len(calls) == 2:
            raise ValueError("of the moment")
        return z

    target = Target(Ends(once))
    target(torch.rand(4, *SHAPE))
    with pytest.raises(ModelError, match="of the moment"):
        target(torch.rand(2, *SHAPE))
    assert target.predictor.batching.least == 1


def test_a_batch_statistic_is_found_also_where_small_batches_must_be_filled():
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(108, track_running_stats=False), nn.Linear(108, 4))
    card = evaluate(module, data(), ["fgsm"], "Linf 0.02", batch_size=32)
    assert ("RB103", "error") in {(one.code, one.severity) for one in card.validity}


# What the model's code raises


def raising(fault, most=0):
    class Raising(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = plain()

        def forward(self, x):
            if len(x) > most:
                raise fault
            return self.model(x)

    return Raising()


@pytest.mark.parametrize("fault", [KeyError("mean"), SystemExit(0), GeneratorExit()], ids=repr)
def test_what_is_raised_is_told_with_its_place_and_nothing_untrue(fault):
    with pytest.raises(UserError) as told:
        evaluate(raising(fault), data(), ["fgsm"], "Linf 0.02")
    text = str(told.value)
    assert type(fault).__name__ in text
    assert "test_predictor.py:" in text
    assert "in_channels" not in text
    assert "shape it expects" not in text


def test_what_is_raised_on_a_later_batch_is_told_with_its_samples():
    counted = raising(ValueError("only eight"), most=8)
    with pytest.raises(UserError, match=r"on samples 0 to 31 the forward pass fails on inputs of shape \(32, "):
        evaluate(counted, data(), ["fgsm"], "Linf 0.02", batch_size=32)


def test_leaving_the_program_within_an_attack_is_a_failed_attack():
    module = raising(SystemExit(0))
    calls = []
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    plainly = module.forward
    module.forward = lambda x: plainly(x) if len(calls) > 40 else module.model(x)
    card = evaluate(module, data(), ["pgd"], "Linf 0.001")
    assert card.verdict == "INVALID"
    assert any("SystemExit" in one.message for one in card.validity)


# Other matters


@pytest.mark.parametrize("shape", [(7,), (2, 9), (3, 6, 6), (1, 4, 4, 4), (2, 2, 3, 4, 4)], ids=len)
def test_inputs_of_one_to_five_dimensions(shape):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 3))
    x = torch.rand(24, *shape)
    card = evaluate(module, (x, module(x).argmax(1)), ["pgd"], "Linf 0.01")
    assert card.clean_accuracy.value == 1
    assert not [one for one in card.validity if one.severity == "error"]


def test_channels_last_inputs_are_handed_on_contiguous():
    x, _ = data()
    assert Target(View()).probe(x.contiguous(memory_format=torch.channels_last)) == 4


def test_inputs_from_inference_mode_have_gradients():
    with torch.inference_mode():
        x, y = data()
    assert evaluate(plain(), (x, y), ["pgd"], "Linf 0.02").clean_accuracy.value > 0.8


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_weights_of_quantised_layers_are_in_the_hash():
    def quantised(by: float):
        model = plain()
        with torch.no_grad():
            model[3].weight *= by
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)

    assert Target(quantised(1)).weights_sha256() == Target(quantised(1)).weights_sha256()
    assert Target(quantised(1)).weights_sha256() != Target(quantised(2)).weights_sha256()


def test_who_answers_says_what_it_shows():
    module, function = Target(plain()).predictor, Target.from_callable(lambda x: x.reshape(len(x), -1)).predictor
    assert isinstance(module, ModulePredictor)
    assert isinstance(function, FunctionPredictor)
    assert isinstance(function.module, BlackBox)
    assert (module.shows, module.opaque, function.shows, function.opaque) == ("gradients", False, None, True)
    function.answer(torch.rand(2, 3))
    assert function.shows == "scores"
    assert function.batching.calls == {2: 1}


@pytest.mark.parametrize("empty", ["all", "parameter", "buffer"])
def test_a_module_whose_parameters_hold_no_numbers_is_refused(empty):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.BatchNorm1d(4))
    if empty == "all":
        model.to("meta")
    elif empty == "parameter":
        model[1].bias = nn.Parameter(torch.empty(4, device="meta"))
    elif empty == "buffer":
        model[2].running_mean = torch.empty(4, device="meta")
    place = {"all": "1.weight", "parameter": "1.bias", "buffer": "2.running_mean"}[empty]
    for device in (None, "cpu"):
        with pytest.raises(UserError, match=f"^Sequential: {place} .*is on the device meta"):
            Target(model, device=device)


def test_a_lazy_module_is_refused_where_it_is_asked():
    target = Target(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))
    told = r"^Sequential: 1\.weight has no shape yet.*call the model once"
    with pytest.raises(UserError, match=told), target.attacking():
        pass
    with pytest.raises(UserError, match=told):
        target.weights_sha256()
    target.module(torch.rand(2, 4))
    with target.attacking():
        assert target(torch.rand(2, 4)).shape == (2, 3)
