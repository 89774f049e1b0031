"""Random views of pre-training pictures, and what they look like.

Views keep the colours and the strokes of the artist: pictures whose style is shifted are for
evaluation.
"""

import torch
import torch.nn.functional as F

from trainers.prompting.backbones.openai import OPENAI

from .captions import LOOK_NAMES

MEAN, STD = (torch.tensor(values).view(1, 3, 1, 1) for values in (OPENAI.mean, OPENAI.std))
SILHOUETTES = 0.05  # share of pictures filled with one dark colour


def uniform(shape, low, high, generator):
    return torch.rand(shape, generator=generator) * (high - low) + low


def chance(count, p, generator):
    """(count, 1, 1, 1) bool, true with probability p."""
    return torch.rand(count, 1, 1, 1, generator=generator) < p


def augment(rgba, may_flip, is_mono, style_looks, generator):
    """Random views of pictures.

    rgba: (B, 4, H, W) uint8. may_flip, is_mono: (B,) bool. style_looks: (B, len(LOOKS)) bool, the
    looks of the pictures' styles. Returns views (B, 3, H, W), normalised as CLIP's, and their
    looks (B, len(LOOKS)) bool.
    """
    count = len(rgba)
    g = generator
    x = rgba.float() / 255
    x = torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], 1)  # premultiplied: no fringes

    angle = uniform(count, -0.35, 0.35, g) * (torch.rand(count, generator=g) < 0.7)
    size = uniform(count, 0.7, 1.15, g)
    zoom = 1 / size
    flip = torch.where(may_flip & (torch.rand(count, generator=g) < 0.4), -1.0, 1.0)
    stretch = uniform(count, 0.88, 1.12, g)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = angle.cos() * zoom * flip * stretch
    theta[:, 0, 1] = -angle.sin() * zoom * stretch
    theta[:, 1, 0] = angle.sin() * zoom * flip
    theta[:, 1, 1] = angle.cos() * zoom
    theta[:, :, 2] = uniform((count, 2), -0.18, 0.18, g)
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False)
    colour, alpha = x[:, :3], x[:, 3:]

    coloured, plain = (torch.rand(count, n, 1, 1, generator=g) for n in (3, 1))
    ground = torch.where(chance(count, 0.5, g), coloured, plain)
    ground = torch.where(chance(count, 0.5, g), torch.ones(()), ground)
    # icons of one colour take any ink that is seen on the ground
    ink = torch.where(chance(count, 0.5, g), torch.rand(count, 3, 1, 1, generator=g), 0.0)
    near = (ink.mean(1, keepdim=True) - ground.mean(1, keepdim=True)).abs() < 0.4
    bright = torch.where(ground.mean(1, keepdim=True) < 0.5, 0.9, 0.05)
    ink = torch.where(near, bright, ink)
    silhouette = chance(count, SILHOUETTES, g)
    colour = torch.where(is_mono.view(-1, 1, 1, 1) | silhouette, ink * alpha, colour)

    # a soft light over the object, as on glossy and three-dimensional styles
    lit = chance(count, 0.6, g)
    light = uniform((count, 1, 3, 3), -0.3, 0.3, g) * lit
    light = F.interpolate(light, x.shape[2:], mode="bilinear", align_corners=True)
    shaded = (colour * (1 + light)).clamp(max=1)
    painted = shaded + (1 - alpha) * ground
    contrast = uniform((count, 1, 1, 1), 0.8, 1.2, g)
    painted = (painted - 0.5) * contrast + 0.5 + uniform((count, 1, 1, 1), -0.05, 0.05, g)

    looks = style_looks.clone()
    column = {name: i for i, name in enumerate(LOOK_NAMES)}
    silhouette, lit = silhouette.flatten(), lit.flatten()
    for name in ("flat", "shaded"):
        looks[:, column[name]] &= ~silhouette
    saturation = (ground.amax(1) - ground.amin(1)).flatten()
    white = ground.amin(1).flatten() > 0.9
    looks[:, column["solid"]] |= silhouette
    looks[:, column["glossy"]] |= lit & ~is_mono & ~silhouette
    looks[:, column["small"]] |= size < 0.8
    looks[:, column["large"]] |= size > 1.05
    looks[:, column["turned"]] |= angle.abs() > 0.2
    looks[:, column["on white"]] |= white
    looks[:, column["on dark"]] |= ground.mean((1, 2, 3)) < 0.3
    looks[:, column["on colour"]] |= (saturation > 0.4) & ~white
    return (painted.clamp(0, 1) - MEAN) / STD, looks
