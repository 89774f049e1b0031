"""The augmentations that torchvision does not have."""

import random

import torch
from torchvision.transforms import functional as F


class Random2DTranslation:
    """With probability p enlarge the image by an eighth and crop a random part of it."""

    def __init__(self, height, width, p=0.5, interpolation=F.InterpolationMode.BILINEAR):
        self.height = height
        self.width = width
        self.p = p
        self.interpolation = interpolation

    def __call__(self, img):
        size = [self.height, self.width]
        if random.random() >= self.p:
            return F.resize(img, size, self.interpolation)
        large = [round(side * 1.125) for side in size]
        top = random.randint(0, large[0] - self.height)
        left = random.randint(0, large[1] - self.width)
        return F.crop(F.resize(img, large, self.interpolation), top, left, *size)


class Cutout:
    """Set `n_holes` squares of side `length` at random places of an image tensor to zero."""

    def __init__(self, n_holes=1, length=16):
        self.n_holes = n_holes
        self.length = length

    def __call__(self, img):
        img = img.clone()
        height, width = img.shape[-2:]
        for _ in range(self.n_holes):
            y = int(torch.randint(height, ()))
            x = int(torch.randint(width, ()))
            half = self.length // 2
            img[..., max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0
        return img


class GaussianNoise:
    """With probability p add noise to an image tensor."""

    def __init__(self, mean=0.0, std=0.15, p=0.5):
        self.mean = mean
        self.std = std
        self.p = p

    def __call__(self, img):
        if torch.rand(()) >= self.p:
            return img
        return img + torch.randn_like(img) * self.std + self.mean


class InstanceNormalization:
    """Give each channel of an image tensor mean 0 and standard deviation 1."""

    def __init__(self, eps=1e-8):
        self.eps = eps

    def __call__(self, img):
        mean = img.mean(dim=(-2, -1), keepdim=True)
        std = img.std(dim=(-2, -1), keepdim=True)
        return (img - mean) / (std + self.eps)
