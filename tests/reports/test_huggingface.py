"""Evaluation results for the hub, as its own client reads them."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from robustbench_lite.core.errors import UserError
from robustbench_lite.reports import huggingface


def test_a_model_index_is_read_by_the_hub_s_client(make_card):
    card = make_card(threats=["L2 0.5", "Linf 8/255"])
    text = huggingface.render([card], title="my net")
    assert "Evidence, not conformity" in text
    metadata = ModelCard(text).data
    assert metadata.model_name == "my net"
    found = {one.metric_name: one for one in metadata.eval_results}
    assert found["clean accuracy"].metric_value == card.clean_accuracy.value
    one = found["robust accuracy under Linf 8/255"]
    assert (one.metric_type, one.dataset_type) == ("robust_accuracy", "digits")
    assert one.metric_args["low"] == card.threats[1].robust_accuracy.low
    assert one.task_name == "Adversarial robustness, verdict PASS"


def test_the_form_of_a_registered_benchmark(make_card):
    card = make_card()
    [entry] = parse_eval_result_entries(yaml.safe_load(huggingface.render([card], benchmark="org/robust:linf")))
    assert (entry.dataset_id, entry.task_id) == ("org/robust", "linf")
    assert entry.value == pytest.approx(100 * card.robust_accuracy.value)
    assert "under Linf 0.3" in entry.notes
    for wrong in ("robust", "org/robust", "org/robust:", "a b/c:d", "org/x:y\nz"):
        with pytest.raises(UserError, match="expected ORG/NAME:TASK"):
            huggingface.render([card], benchmark=wrong)


def test_the_hub_is_given_no_number_of_an_invalid_card(make_card):
    for more in ({}, {"benchmark": "org/robust:linf"}):
        with pytest.raises(UserError, match="INVALID"):
            huggingface.render([make_card(), make_card(verdict="INVALID")], **more)


@pytest.mark.parametrize("hostile", ['"', "a\nb: c", "\x1b[2J", "yes", "- x", "---", "{x}", "# x", "😀\\", "\u2028"])
def test_hostile_names_stay_texts(make_card, hostile):
    card = make_card(hostile, samples=4)
    [index] = yaml.safe_load(huggingface.render([card], title=hostile).strip("-\n"))["model-index"]
    assert isinstance(index["name"], str)
    assert set(index) == {"name", "results"}
