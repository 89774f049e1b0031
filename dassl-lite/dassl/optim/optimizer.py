"""Builds optimisers by their names in the config."""

from typing import Any

import torch
import torch.nn as nn

from dassl.utils import UserError, unknown_name

_NAMES = ["adam", "adamw", "amsgrad", "radam", "rmsprop", "sgd"]


def build_optimizer(model, optim_cfg, param_groups=None):
    """Build the optimiser that `optim_cfg` describes, for a module, parameters or groups of them.

    If `param_groups` is given, it replaces the model's parameters.
    """
    if param_groups is None:
        param_groups = _parameters(model, optim_cfg)
    name, lr = optim_cfg.NAME, optim_cfg.LR
    common = {"lr": lr, "weight_decay": optim_cfg.WEIGHT_DECAY}
    betas: dict[str, Any] = {"betas": (optim_cfg.ADAM_BETA1, optim_cfg.ADAM_BETA2)}
    if name == "sgd":
        return torch.optim.SGD(
            param_groups,
            momentum=optim_cfg.MOMENTUM,
            dampening=optim_cfg.SGD_DAMPNING,
            nesterov=optim_cfg.SGD_NESTEROV,
            **common,
        )
    if name == "rmsprop":
        return torch.optim.RMSprop(
            param_groups, momentum=optim_cfg.MOMENTUM, alpha=optim_cfg.RMSPROP_ALPHA, **common
        )
    if name == "adamw":
        return torch.optim.AdamW(param_groups, **common, **betas)
    if name == "radam":
        return torch.optim.RAdam(param_groups, **common, **betas)
    if name in ("adam", "amsgrad"):
        return torch.optim.Adam(param_groups, amsgrad=name == "amsgrad", **common, **betas)
    raise unknown_name("optimizer OPTIM.NAME", name, _NAMES)


def _parameters(model, optim_cfg):
    if not isinstance(model, nn.Module):
        return model
    if not optim_cfg.STAGED_LR:
        return model.parameters()
    model = model.module if isinstance(model, nn.DataParallel) else model
    new_layers = optim_cfg.NEW_LAYERS
    new_layers = [new_layers] if isinstance(new_layers, str) else new_layers
    base: list[nn.Parameter] = []
    new: list[nn.Parameter] = []
    for name, child in model.named_children():
        (new if name in new_layers else base).extend(child.parameters())
    if not new:
        names = ", ".join(name for name, _ in model.named_children())
        raise UserError(
            f"OPTIM.STAGED_LR is True, but OPTIM.NEW_LAYERS is {list(new_layers)}, so everything "
            f"would learn at the lower rate: name some of {names}, or set STAGED_LR False"
        )
    return [{"params": base, "lr": optim_cfg.LR * optim_cfg.BASE_LR_MULT}, {"params": new}]
