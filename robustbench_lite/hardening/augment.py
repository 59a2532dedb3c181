"""What is done to the training samples, by torchvision's transforms, and to their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.hardening.schedule import Augmentation

_SHIFT = 8  # a crop moves the image by up to one part in so many of its side: 4 of 32 pixels, as the field does


class Augment:
    """Changes the samples of a batch, and spreads their labels; every draw is torch's global generator's.

    Parameters
    ----------
    names
        What is done, in order.
    label_smoothing
        Share of each label that is spread over all classes, in [0, 1).
    classes
        Number of classes.

    References
    ----------
    CutMix: Yun et al. 2019, https://arxiv.org/abs/1905.04899; RandAugment: Cubuk et al. 2020,
    https://arxiv.org/abs/1909.13719; both in adversarial training: Rebuffi et al. 2021,
    https://arxiv.org/abs/2103.01946
    """

    def __init__(self, names: Sequence[Augmentation], label_smoothing: float, classes: int) -> None:
        self.names, self.label_smoothing, self.classes = tuple(names), label_smoothing, classes

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """Change a batch.

        Parameters
        ----------
        x, y
            Inputs in [0, 1], shape (B, C, H, W), and labels, shape (B,), on the CPU.

        Returns
        -------
        tuple[Tensor, Tensor | None]
            Inputs in [0, 1] of the same shape, and class probabilities, shape (B, K); None where the labels say all.
        """
        targets = None
        for name in self.names:
            if name == "cutmix":
                x, targets = self._cutmix(x, y)
            else:
                change = _transform(name, x)
                x = torch.stack([change(one) for one in x])  # one draw a sample, not one a batch
        if self.label_smoothing:
            targets = F.one_hot(y, self.classes).float() if targets is None else targets
            targets = targets.lerp(torch.full_like(targets, 1 / self.classes), self.label_smoothing)
        return (x.clamp(0, 1) if self.names else x), targets

    def _cutmix(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        from torchvision.transforms import v2

        mixed, targets = v2.CutMix(num_classes=self.classes)(x, y)
        return mixed, targets


def _transform(name: Augmentation, x: Tensor) -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2

    height, width = x.shape[-2:]
    made: Callable[[Tensor], Tensor]
    if name == "crop":
        made = v2.RandomCrop((height, width), padding=[max(1, width // _SHIFT), max(1, height // _SHIFT)])
    elif name == "flip":
        made = v2.RandomHorizontalFlip()
    else:
        made = v2.RandAugment()
    return made
