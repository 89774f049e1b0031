"""Steps without chance, by Pillow and PyTorch: torchvision takes half a second to import.

Their pixels are those of torchvision's steps of the same names, bit for bit.
"""

import numpy as np
import torch


class Compose:
    """Steps in turn."""

    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, image):
        """Return what the last step makes of an image."""
        for step in self.transforms:
            image = step(image)
        return image


class Resize:
    """Resizes an image: its shorter side to `size`, or both to (height, width)."""

    def __init__(self, size, interpolation):
        self.size, self.interpolation = size, interpolation

    def __call__(self, image):
        """Return the resized image."""
        if isinstance(self.size, int):
            shorter = min(image.size)
            size = tuple(int(self.size * side / shorter) for side in image.size)
        else:
            size = self.size[::-1]
        return image.resize(size, self.interpolation)


class CenterCrop:
    """Cuts out the centre, (height, width), of an image that is no smaller."""

    def __init__(self, size):
        self.size = size

    def __call__(self, image):
        """Return the centre."""
        height, width = self.size
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))


class ToTensor:
    """Makes an image a float tensor (C, H, W) from 0 to 1."""

    def __call__(self, image):
        """Return the tensor."""
        pixels = torch.from_numpy(np.array(image))
        pixels = pixels[..., None] if pixels.dim() == 2 else pixels
        return pixels.permute(2, 0, 1).contiguous().to(torch.get_default_dtype()).div(255)


class Normalize:
    """Subtracts the mean of each channel, and divides by its deviation."""

    def __init__(self, mean, std):
        self.mean, self.std = (torch.tensor(value)[:, None, None] for value in (mean, std))

    def __call__(self, image):
        """Return (image - mean) / std, (C, H, W)."""
        return (image - self.mean.to(image)).div_(self.std.to(image))
