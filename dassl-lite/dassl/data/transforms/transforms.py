"""Builds the training and test transforms that INPUT.TRANSFORMS names."""

from PIL.Image import Resampling

from ...utils import unknown_name
from .plain import CenterCrop, Compose, Normalize, Resize, ToTensor

INTERPOLATION_MODES = {
    "bilinear": Resampling.BILINEAR,
    "bicubic": Resampling.BICUBIC,
    "nearest": Resampling.NEAREST,
}

# In the order of application, for any order in the config; T is torchvision's `transforms`.
_AUGMENTATIONS = {
    "random_crop": lambda T, c, mode: T.RandomCrop(tuple(c.SIZE), padding=c.CROP_PADDING),
    "random_resized_crop": lambda T, c, mode: T.RandomResizedCrop(
        tuple(c.SIZE), scale=tuple(c.RRCROP_SCALE), interpolation=mode
    ),
    "random_flip": lambda T, c, mode: T.RandomHorizontalFlip(),
    "imagenet_policy": lambda T, c, mode: T.AutoAugment(T.AutoAugmentPolicy.IMAGENET),
    "cifar10_policy": lambda T, c, mode: T.AutoAugment(T.AutoAugmentPolicy.CIFAR10),
    "svhn_policy": lambda T, c, mode: T.AutoAugment(T.AutoAugmentPolicy.SVHN),
    "randaugment": lambda T, c, mode: T.RandAugment(c.RANDAUGMENT_N, c.RANDAUGMENT_M),
    "colorjitter": lambda T, c, mode: T.ColorJitter(
        c.COLORJITTER_B, c.COLORJITTER_C, c.COLORJITTER_S, c.COLORJITTER_H
    ),
    "randomgrayscale": lambda T, c, mode: T.RandomGrayscale(c.RGS_P),
    "gaussian_blur": lambda T, c, mode: T.RandomApply([T.GaussianBlur(c.GB_K)], c.GB_P),
}
_CHOICES = [*_AUGMENTATIONS, "normalize", "center_crop"]


def build_transform(cfg, is_train=True, choices=None):
    """Build the transform that `choices` (default: INPUT.TRANSFORMS) describe.

    At test time an image is resized so that its shorter side is max(SIZE), and cropped to its
    centre; of the choices, only `normalize` is applied.
    """
    if cfg.INPUT.NO_TRANSFORM:
        print("Note: no transform is applied!")
        return None
    choices = cfg.INPUT.TRANSFORMS if choices is None else choices
    for choice in choices:
        if choice not in _CHOICES:
            raise unknown_name("transform in INPUT.TRANSFORMS", choice, _CHOICES)
    mode = INTERPOLATION_MODES.get(cfg.INPUT.INTERPOLATION)
    if mode is None:
        raise unknown_name("INPUT.INTERPOLATION", cfg.INPUT.INTERPOLATION, INTERPOLATION_MODES)
    steps = _train_steps(cfg.INPUT, choices, mode) if is_train else _test_steps(cfg.INPUT, mode)
    steps.append(ToTensor())
    if "normalize" in choices:
        steps.append(Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD))
    if cfg.VERBOSE:
        names = " -> ".join(type(step).__name__ for step in steps)
        print(f"Transform for {'training' if is_train else 'testing'}: {names}")
    return Compose(steps)


def _train_steps(config, choices, mode):
    chosen = [make for name, make in _AUGMENTATIONS.items() if name in choices]
    steps = []
    if chosen:
        from torchvision import transforms  # slow to import

        steps = [make(transforms, config, mode) for make in chosen]
    if not {"random_crop", "random_resized_crop"} & set(choices):  # nothing else fixes the size
        steps.insert(0, Resize(tuple(config.SIZE), mode))
    return steps


def _test_steps(config, mode):
    return [Resize(max(config.SIZE), mode), CenterCrop(tuple(config.SIZE))]
