"""Training and test transforms, put together from the names in INPUT.TRANSFORMS."""

from torchvision import transforms as T
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode

from dassl.utils import unknown_name

from .augment import Cutout, GaussianNoise, InstanceNormalization, Random2DTranslation

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}

# In the order in which they are applied, whatever the order in the config.
_ON_IMAGES = {
    "random_translation": lambda c, mode: Random2DTranslation(*c.SIZE, interpolation=mode),
    "random_crop": lambda c, mode: T.RandomCrop(tuple(c.SIZE), padding=c.CROP_PADDING),
    "random_resized_crop": lambda c, mode: T.RandomResizedCrop(
        tuple(c.SIZE), scale=tuple(c.RRCROP_SCALE), interpolation=mode
    ),
    "random_flip": lambda c, mode: T.RandomHorizontalFlip(),
    "imagenet_policy": lambda c, mode: T.AutoAugment(AutoAugmentPolicy.IMAGENET),
    "cifar10_policy": lambda c, mode: T.AutoAugment(AutoAugmentPolicy.CIFAR10),
    "svhn_policy": lambda c, mode: T.AutoAugment(AutoAugmentPolicy.SVHN),
    "randaugment": lambda c, mode: T.RandAugment(c.RANDAUGMENT_N, c.RANDAUGMENT_M),
    "colorjitter": lambda c, mode: T.ColorJitter(
        c.COLORJITTER_B, c.COLORJITTER_C, c.COLORJITTER_S, c.COLORJITTER_H
    ),
    "randomgrayscale": lambda c, mode: T.RandomGrayscale(c.RGS_P),
    "gaussian_blur": lambda c, mode: T.RandomApply([T.GaussianBlur(c.GB_K)], c.GB_P),
}
_ON_TENSORS = {
    "cutout": lambda c: Cutout(c.CUTOUT_N, c.CUTOUT_LEN),
    "normalize": lambda c: T.Normalize(c.PIXEL_MEAN, c.PIXEL_STD),
    "gaussian_noise": lambda c: GaussianNoise(c.GN_MEAN, c.GN_STD),
    "instance_norm": lambda c: InstanceNormalization(),
}
_CHOICES = [*_ON_IMAGES, *_ON_TENSORS, "center_crop"]


def build_transform(cfg, is_train=True, choices=None):
    """The transform that `choices` (default: INPUT.TRANSFORMS) describe.

    At test time an image is resized so that its shorter side is max(SIZE), and its centre is cut
    out; only `normalize` and `instance_norm` of the choices are applied.
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
    build = _train_transform if is_train else _test_transform
    transform = build(cfg.INPUT, choices, mode)
    if cfg.VERBOSE:
        steps = " -> ".join(type(step).__name__ for step in transform.transforms)
        print(f"Transform for {'training' if is_train else 'testing'}: {steps}")
    return transform


def _train_transform(config, choices, mode):
    steps = []
    # Without a crop that fixes the size, the image is resized first.
    if not {"random_translation", "random_crop", "random_resized_crop"} & set(choices):
        steps.append(T.Resize(tuple(config.SIZE), interpolation=mode))
    steps += [make(config, mode) for name, make in _ON_IMAGES.items() if name in choices]
    steps.append(T.ToTensor())
    steps += [make(config) for name, make in _ON_TENSORS.items() if name in choices]
    return T.Compose(steps)


def _test_transform(config, choices, mode):
    steps = [
        T.Resize(max(config.SIZE), interpolation=mode),
        T.CenterCrop(tuple(config.SIZE)),
        T.ToTensor(),
    ]
    for name in ("normalize", "instance_norm"):
        if name in choices:
            steps.append(_ON_TENSORS[name](config))
    return T.Compose(steps)
