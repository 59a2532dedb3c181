"""torchvision's models: their weights from a file, or from torch's cache by name; without either it is told."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torchvision import models

from robustbench_lite.core.errors import UserError
from robustbench_lite.model.loading import load_target

MODEL = "torchvision:squeezenet1_1"
WEIGHTS = models.SqueezeNet1_1_Weights.IMAGENET1K_V1


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache of downloads, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", ["IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1", "DEFAULT"])
def test_weights_come_from_the_cache_by_name(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = load_target(MODEL, seed=5)
    torch.save(trained.module.state_dict(), cache / "some.pth")
    digits = hashlib.sha256((cache / "some.pth").read_bytes()).hexdigest()[:8]
    (cache / "some.pth").rename(cache / f"squeezenet1_1-{digits}.pth")
    monkeypatch.setattr(WEIGHTS.value, "url", f"https://example.org/squeezenet1_1-{digits}.pth")
    found = load_target(MODEL, weights=name, classes=10)  # the published weights say how many classes there are
    assert found.weights_sha256() == trained.weights_sha256()
    assert (found.classes, found.mean) == (1000, (0.485, 0.456, 0.406))


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    trained = load_target(MODEL, seed=5, classes=4)
    torch.save(trained.module.state_dict(), tmp_path / "mine.pth")
    found = load_target(MODEL, weights=tmp_path / "mine.pth", classes=4)
    assert found.weights_sha256() == trained.weights_sha256()


def test_what_is_not_in_the_cache_is_told(cache: Path) -> None:
    with pytest.raises(UserError, match=r"not in torch's cache .*checkpoints/squeeze.*get https://.*--weights"):
        load_target(MODEL, weights="IMAGENET1K_V1")


def test_what_was_damaged_in_the_cache_is_not_used(cache: Path) -> None:
    (cache / WEIGHTS.url.rpartition("/")[2]).write_bytes(b"half of it")
    with pytest.raises(UserError, match="is damaged: its checksum is not that of its name"):
        load_target(MODEL, weights="DEFAULT")


def test_a_misspelt_name_is_told(cache: Path) -> None:
    with pytest.raises(UserError, match=r"no such file, and unknown weights of squeezenet1_1 .*mean.* IMAGENET1K_V1"):
        load_target(MODEL, weights="IMAGENET_V1")


@pytest.mark.parametrize("name", ["gone.pth", "weights/gone", "gone.safetensors"])
def test_a_file_that_is_gone_is_told_as_one(name: str, cache: Path) -> None:
    with pytest.raises(UserError, match=r"no such file; expected a \.safetensors file or a torch state dict"):
        load_target(MODEL, weights=name)
