"""Weights of the image backbones that were trained on ImageNet: their names and their files.

The names are torchvision's. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainables.interface import Fault

__all__ = ["FIELD", "FILES", "is_path", "weights_fault", "weights_file"]

FIELD = "policy.pretrained_backbone_weights"

FILES: Mapping[str, Mapping[str, str]] = {
    "resnet18": {"IMAGENET1K_V1": "resnet18-f37072fd.pth"},
    "resnet34": {"IMAGENET1K_V1": "resnet34-b627a593.pth"},
    "resnet50": {"IMAGENET1K_V1": "resnet50-0676ba61.pth", "IMAGENET1K_V2": "resnet50-11ad3fa6.pth"},
    "resnet101": {"IMAGENET1K_V1": "resnet101-63fe2227.pth", "IMAGENET1K_V2": "resnet101-cd907fc2.pth"},
}
"""torchvision's files by backbone and name; ``DEFAULT`` is the last one of a backbone."""

_ENDINGS = (".pth", ".pt")


def is_path(named: str) -> bool:
    """Whether a value of the field is a file, not one of torchvision's names."""
    return named.endswith(_ENDINGS) or "/" in named or "\\" in named


def weights_file(backbone: str, named: str) -> str | None:
    """The name of torchvision's file for a backbone and a name with or without its class; None if unknown."""
    files = FILES.get(backbone, {})
    name = named.removeprefix(f"{_class(backbone)}.")
    return list(files.values())[-1] if files and name == "DEFAULT" else files.get(name)


def weights_fault(backbone: str, named: str) -> Fault | None:
    """Why a value of the field cannot be used for a backbone, as far as its name tells; None if it can."""
    if is_path(named) or weights_file(backbone, named) is not None:
        return None
    known = ", ".join(f"{_class(backbone)}.{name}" for name in FILES[backbone])
    others = [one for one in FILES if weights_file(one, named) is not None]
    if others:
        problem = f"{named} is for {' and '.join(others)}, and policy.vision_backbone is {backbone}."
    else:
        problem = f"torchvision has no weights {named!r} for policy.vision_backbone: {backbone}."
    remedy = (
        f"Use {known}, or the path of a .pth file. Without the class, IMAGENET1K_V1 names the weights of "
        "any backbone."
    )
    return Fault(FIELD, problem, remedy)


def _class(backbone: str) -> str:
    return f"{backbone.replace('resnet', 'ResNet')}_Weights"
