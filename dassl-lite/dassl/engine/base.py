"""The base class of every trainer: models by name, their checkpoints, the loop over epochs."""

import os.path as osp
import time

import torch

from dassl.utils import (
    LossNotFinite,
    UserError,
    broken_checkpoint,
    get_rng_state,
    load_checkpoint,
    load_last_checkpoint,
    restore,
    save_checkpoint,
    set_rng_state,
    tolist_if_not,
)


class TrainerBase:
    """Base class of iterative trainers.

    A subclass registers its models with `register_model`, and implements `run_epoch` and
    `forward_backward`.
    """

    def __init__(self):
        self._models = {}
        self._optims = {}
        self._scheds = {}
        self._writer = None
        self.start_epoch = self.epoch = self.max_epoch = 0
        self.losses = None  # means of the terms over the last epoch, by name
        self.train_seconds = 0.0  # duration of all epochs, including those before a resumption
        self._loop_start = None

    # Models

    def register_model(self, name="model", model=None, optim=None, sched=None):
        """Register a model under `name`: it is saved, resumed, and updated by `optim`."""
        if name in self._models:
            raise ValueError(f"A model named '{name}' is registered already")
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names=None):
        """Return the given names as a list, or all names."""
        return list(self._models) if names is None else tolist_if_not(names)

    def set_model_mode(self, mode="train", names=None):
        """Put models into train mode (`train`) or eval mode (`eval`, `test`)."""
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    def get_current_lr(self, names=None):
        """Return the learning rate of the first model with an optimiser; 0 if none has one."""
        optims = [self._optims[name] for name in self.get_model_names(names)]
        return next((o.param_groups[0]["lr"] for o in optims if o is not None), 0.0)

    def update_lr(self, names=None):
        """Step the schedulers; called once in each epoch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    # Checkpoints

    def save_model(self, epoch, directory, is_best=False, val_result=None, model_name=""):
        """Write `directory`/<name>/model.pth.tar-<epoch + 1>, or `model_name`, for each model."""
        for name in self.get_model_names():
            optim, sched = self._optims[name], self._scheds[name]
            state = {
                "state_dict": self._models[name].state_dict(),
                "epoch": epoch + 1,
                "optimizer": None if optim is None else optim.state_dict(),
                "scheduler": None if sched is None else sched.state_dict(),
                "val_result": val_result,
                **self.run_state(),
            }
            folder = osp.join(directory, name)
            save_checkpoint(state, folder, is_best=is_best, model_name=model_name)

    def run_state(self):
        """Return the rest of the state that resuming needs, besides a model and its optimiser."""
        more = {"train_seconds": self._seconds_so_far(), "losses": self.losses}
        return {"rng": get_rng_state(), **more}

    def resume_model_if_exist(self, directory):
        """Resume from the last checkpoint of every model in `directory`; return the next epoch.

        The random number generators resume, too. Checkpoints of the original Dassl lack their
        states: then a printed line says so.
        """
        names = self.get_model_names()
        if not names:
            raise UserError(f"{type(self).__name__} has nothing to train: use --eval-only")
        folders = {name: osp.join(directory, name) for name in names}
        if not all(osp.exists(osp.join(folder, "checkpoint")) for folder in folders.values()):
            return 0
        print(f"Found checkpoint at {directory} (will resume training)")
        checkpoints = {name: load_last_checkpoint(folders[name]) for name in names}
        try:
            self._resume(checkpoints, folders)
            return int(checkpoints[names[0]]["epoch"])
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            if hasattr(error, "exit_code"):  # already a clear sentence
                raise
            flaw = " ".join(f"lacks a part, or has a broken one ({error!r:.100})".split())
            raise broken_checkpoint(folders[names[0]], flaw) from None

    def _resume(self, checkpoints, folders):
        epochs = {checkpoint["epoch"] for checkpoint in checkpoints.values()}
        if len(epochs) > 1:  # killed between two files
            raise UserError(
                f"The models in '{osp.dirname(folders[min(folders)])}' were saved after different"
                f" epochs {sorted(epochs)}: delete the folder and train again"
            )
        for name, checkpoint in checkpoints.items():
            self.check_checkpoint(checkpoint, folders[name])
        for name, checkpoint in checkpoints.items():
            optim, sched = self._optims[name], self._scheds[name]
            restore(checkpoint, self._models[name], folders[name], optim, sched)
        self.train_seconds = float(checkpoint.get("train_seconds", 0.0))
        self.losses = checkpoint.get("losses")
        if "rng" in checkpoint:
            set_rng_state(checkpoint["rng"])
        else:
            print("It has no states of the random number generators: new ones are used")

    def check_checkpoint(self, checkpoint, folder):
        """Raise an error if a run must not resume from a checkpoint; nothing to check here."""

    def load_model(self, directory, epoch=None):
        """Load for evaluation the best checkpoint of every model, or that of `epoch`."""
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        file = "model-best.pth.tar" if epoch is None else f"model.pth.tar-{epoch}"
        for name in self.get_model_names():
            path = osp.join(directory, name, file)
            checkpoint = load_checkpoint(path)
            restore(checkpoint, self._models[name], path)
            details = f"epoch={checkpoint['epoch']}"
            if checkpoint.get("val_result") is not None:
                details += f", val_result={checkpoint['val_result']:.1f}"
            print(f"Load {path} to {name} ({details})")

    # Curves

    def init_writer(self, log_dir):
        """Start writing curves for TensorBoard into `log_dir`."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._writer = SummaryWriter(log_dir=log_dir)

    def close_writer(self):
        """Close the file of the curves."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write_scalar(self, tag, scalar_value, global_step=None):
        """Add a point to a curve; does nothing without a writer."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    # The loop

    def train(self, start_epoch, max_epoch):
        """Run the epochs from `start_epoch` to `max_epoch`."""
        self.start_epoch = start_epoch
        self.max_epoch = max_epoch
        self.before_train()
        self._loop_start = time.perf_counter()
        for epoch in range(self.start_epoch, self.max_epoch):
            self.epoch = epoch
            self.before_epoch()
            self.run_epoch()
            self.after_epoch()
        self.train_seconds = self._seconds_so_far()
        self._loop_start = None
        self.after_train()

    def _seconds_so_far(self):
        running = 0.0 if self._loop_start is None else time.perf_counter() - self._loop_start
        return self.train_seconds + running

    def before_train(self):
        """Prepare the training; nothing here."""

    def after_train(self):
        """Finish the training; nothing here."""

    def before_epoch(self):
        """Prepare an epoch; nothing here."""

    def after_epoch(self):
        """Finish an epoch; nothing here."""

    def run_epoch(self):
        """Do the steps of one epoch."""
        raise NotImplementedError

    def forward_backward(self, batch):
        """Do one step; return a dict of the values to print."""
        raise NotImplementedError

    # One step

    def model_zero_grad(self, names=None):
        """Clear the gradients of the named models, or of all."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss):
        """Compute gradients; raises LossNotFinite before a loss that is not finite does harm."""
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names=None):
        """Step the optimisers of the named models, or of all."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss, names=None):
        """Do one step of the optimisers of the named models."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    def detect_anomaly(self, loss):
        """Raise LossNotFinite if a loss is not finite."""
        if torch.isfinite(loss).all():
            return
        where = f"epoch {self.epoch + 1}"
        if hasattr(self, "batch_idx"):
            where += f", batch {self.batch_idx + 1}"
        raise LossNotFinite(
            f"The loss is not finite ({loss.detach().flatten()[0].item()}) in {where}: training"
            f" stops and checkpoints are kept; try a lower OPTIM.LR, or PREC fp32"
        )
