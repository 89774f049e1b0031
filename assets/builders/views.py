"""Make random views of pre-training pictures, and note their looks (`small`, ...) for captions.

Views keep the strokes of the artist, and colours except in pictures of a single colour and in
silhouettes: pictures in a shifted style are only for evaluation.
"""

import torch
import torch.nn.functional as F
from torchvision.transforms.functional import normalize

from trainers.prompting.backbones.openai import OPENAI

from .captions import LOOK_NAMES

SILHOUETTES = 0.05  # share of pictures filled with one random colour


def uniform(shape, low, high, generator):
    """Draw uniform random numbers from `low` to `high`."""
    return torch.rand(shape, generator=generator) * (high - low) + low


def chance(count, p, generator):
    """Draw (count, 1, 1, 1) bool, True with probability p."""
    return torch.rand(count, 1, 1, 1, generator=generator) < p


def augment(rgba, may_flip, is_mono, style_looks, generator):
    """Make random views of pictures.

    Args:
        rgba: (B, 4, H, W) uint8.
        may_flip: (B,) bool, True if captions are also true of the mirror image.
        is_mono: (B,) bool, True if a picture has a single colour, which can be changed.
        style_looks: (B, len(LOOKS)) bool, the looks of the pictures' styles.
        generator: of random numbers.

    Returns:
        Views (B, 3, H, W), normalised as CLIP's, and their looks (B, len(LOOKS)) bool.
    """
    count, looks = len(rgba), style_looks.clone()
    colour, alpha = moved(rgba, may_flip, looks, generator)
    ground = draw_ground(count, looks, generator)
    ink = draw_ink(ground, generator)
    silhouette = chance(count, SILHOUETTES, generator)
    colour = torch.where(is_mono.view(-1, 1, 1, 1) | silhouette, ink * alpha, colour)
    light, lit = draw_light(rgba.shape, generator)
    painted = (colour * (1 + light)).clamp(max=1) + (1 - alpha) * ground
    contrast = uniform((count, 1, 1, 1), 0.8, 1.2, generator)
    brightness = uniform((count, 1, 1, 1), -0.05, 0.05, generator)
    painted = (painted - 0.5) * contrast + 0.5 + brightness

    silhouette = silhouette.flatten()
    for name in ("flat", "shaded"):
        looks[:, LOOK_NAMES.index(name)] &= ~silhouette
    mark(looks, "solid", silhouette)
    mark(looks, "glossy", lit & ~is_mono & ~silhouette)
    return normalize(painted.clamp(0, 1), OPENAI.mean, OPENAI.std), looks


def mark(looks, name, those):
    """Set a look for some pictures, in place; `those` (B,) bool selects them."""
    looks[:, LOOK_NAMES.index(name)] |= those


def moved(rgba, may_flip, looks, generator):
    """Turn, scale and shift pictures.

    Returns colours (B, 3, H, W), multiplied by alpha, and alpha (B, 1, H, W).
    """
    count = len(rgba)
    x = rgba.float() / 255
    x = torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], 1)  # premultiplied: no fringes
    angle = uniform(count, -0.35, 0.35, generator) * (torch.rand(count, generator=generator) < 0.7)
    size = uniform(count, 0.7, 1.15, generator)
    mirrored = may_flip & (torch.rand(count, generator=generator) < 0.4)
    flip = torch.where(mirrored, -1.0, 1.0)
    stretch = uniform(count, 0.88, 1.12, generator)
    cos, sin = angle.cos() * (1 / size), angle.sin() * (1 / size)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = cos * flip * stretch, -sin * stretch
    theta[:, 1, 0], theta[:, 1, 1] = sin * flip, cos
    theta[:, :, 2] = uniform((count, 2), -0.18, 0.18, generator)
    mark(looks, "small", size < 0.8)
    mark(looks, "large", size > 1.05)
    mark(looks, "turned", angle.abs() > 0.2)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False)
    return x[:, :3], x[:, 3:]


def draw_ground(count, looks, generator):
    """Draw background colours (count, 3, 1, 1): half are white, a quarter grey."""
    coloured, plain = (torch.rand(count, n, 1, 1, generator=generator) for n in (3, 1))
    ground = torch.where(chance(count, 0.5, generator), coloured, plain)
    ground = torch.where(chance(count, 0.5, generator), torch.ones(()), ground)
    white = ground.amin(1).flatten() > 0.9
    saturation = (ground.amax(1) - ground.amin(1)).flatten()
    mark(looks, "on white", white)
    mark(looks, "on dark", ground.mean((1, 2, 3)) < 0.3)
    mark(looks, "on colour", (saturation > 0.4) & ~white)
    return ground


def draw_ink(ground, generator):
    """Draw colours (B, 3, 1, 1) for pictures of one colour, visible on their background."""
    count = len(ground)
    any_colour = chance(count, 0.5, generator)
    ink = torch.where(any_colour, torch.rand(count, 3, 1, 1, generator=generator), 0.0)
    ink_mean, ground_mean = (colour.mean(1, keepdim=True) for colour in (ink, ground))
    seen = torch.where(ground_mean < 0.5, 0.9, 0.05)
    return torch.where((ink_mean - ground_mean).abs() < 0.4, seen, ink)


def draw_light(shape, generator):
    """Draw a soft light (B, 1, H, W) over each object, as in glossy styles.

    Returns the light, by which colours get brighter (darker if it is negative), and (B,) bool, True
    for pictures that have one.
    """
    count = shape[0]
    lit = chance(count, 0.6, generator)
    light = uniform((count, 1, 3, 3), -0.3, 0.3, generator) * lit
    light = F.interpolate(light, shape[2:], mode="bilinear", align_corners=True)
    return light, lit.flatten()
