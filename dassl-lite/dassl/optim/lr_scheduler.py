"""Learning rate schedules by epoch, optionally after a warm-up."""

from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, StepLR

from dassl.utils import unknown_name


class _WarmupScheduler(LRScheduler):
    """Sets the rate for `warmup_epoch` epochs; after them, `successor` sets it."""

    def __init__(self, optimizer, successor, warmup_epoch, last_epoch=-1):
        self.successor = successor
        self.warmup_epoch = warmup_epoch
        super().__init__(optimizer, last_epoch)

    def warmup_lr(self):
        """Return the rate of each parameter group in epoch `last_epoch`."""
        raise NotImplementedError

    def get_lr(self):
        if self.last_epoch >= self.warmup_epoch:
            return self.successor.get_last_lr()
        return self.warmup_lr()

    def step(self, epoch=None):
        if self.last_epoch >= self.warmup_epoch:
            self.successor.step(epoch)
            self._last_lr = self.successor.get_last_lr()
        else:
            super().step(epoch)

    def state_dict(self):
        """Return plain values only, so that `weights_only` can read a checkpoint with them."""
        return {**super().state_dict(), "successor": self.successor.state_dict()}

    def load_state_dict(self, state_dict):
        state = dict(state_dict)
        successor = state.pop("successor")
        if not isinstance(successor, dict):  # the original's checkpoints hold the object
            successor = {k: v for k, v in vars(successor).items() if k != "optimizer"}
        self.successor.load_state_dict(successor)
        super().load_state_dict(state)


class ConstantWarmupScheduler(_WarmupScheduler):
    """Warm-up at the constant rate `cons_lr`."""

    def __init__(self, optimizer, successor, warmup_epoch, cons_lr, last_epoch=-1):
        self.cons_lr = cons_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch)

    def warmup_lr(self):
        """Return `cons_lr` for each group."""
        return [self.cons_lr for _ in self.base_lrs]


class LinearWarmupScheduler(_WarmupScheduler):
    """Linear warm-up from `min_lr` to the full rate."""

    def __init__(self, optimizer, successor, warmup_epoch, min_lr, last_epoch=-1):
        self.min_lr = min_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch)

    def warmup_lr(self):
        """Return `min_lr` in epoch 0, then a linearly growing part of each group's rate."""
        if self.last_epoch == 0:
            return [self.min_lr for _ in self.base_lrs]
        return [lr * self.last_epoch / self.warmup_epoch for lr in self.base_lrs]


def build_lr_scheduler(optimizer, optim_cfg):
    """Build the scheduler that `optim_cfg` describes; call its `step` after every epoch."""
    scheduler = _schedule(optimizer, optim_cfg)
    if optim_cfg.WARMUP_EPOCH <= 0:
        return scheduler
    if not optim_cfg.WARMUP_RECOUNT:
        scheduler.last_epoch = optim_cfg.WARMUP_EPOCH
    args = optimizer, scheduler, optim_cfg.WARMUP_EPOCH
    if optim_cfg.WARMUP_TYPE == "constant":
        return ConstantWarmupScheduler(*args, optim_cfg.WARMUP_CONS_LR)
    if optim_cfg.WARMUP_TYPE == "linear":
        return LinearWarmupScheduler(*args, optim_cfg.WARMUP_MIN_LR)
    raise unknown_name("warm-up OPTIM.WARMUP_TYPE", optim_cfg.WARMUP_TYPE, ["constant", "linear"])


def _schedule(optimizer, optim_cfg):
    steps, name = optim_cfg.STEPSIZE, optim_cfg.LR_SCHEDULER
    if name == "cosine":
        return CosineAnnealingLR(optimizer, optim_cfg.MAX_EPOCH)
    if name == "single_step":
        step = steps[-1] if isinstance(steps, (list, tuple)) else steps
        return StepLR(optimizer, step if step > 0 else optim_cfg.MAX_EPOCH, optim_cfg.GAMMA)
    if name == "multi_step":
        return MultiStepLR(optimizer, list(steps), optim_cfg.GAMMA)
    raise unknown_name(
        "scheduler OPTIM.LR_SCHEDULER", name, ["cosine", "multi_step", "single_step"]
    )
