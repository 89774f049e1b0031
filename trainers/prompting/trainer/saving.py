"""The part of the Dassl trainer that saves, resumes and loads what a method has learned."""

import os
from dataclasses import replace
from typing import Any

import torch
from dassl.engine import TrainerX
from dassl.utils import save_checkpoint
from yacs.config import CfgNode

from ..capabilities import Planned, Unlabelled
from ..capabilities.on_support import count_passes, reads_labels
from ..capabilities.per_class import make_room
from ..checkpoint.files import checkpoint_file, marked_epoch, read_checkpoint, remove_earlier
from ..checkpoint.identity import write_run
from ..checkpoint.provenance import load_initial, provenance_of
from ..checkpoint.public import find_prompts
from ..checkpoint.saved import Saved
from ..checkpoint.state import PublicLayout
from ..errors import need
from ..method import Method
from ..plugins import code_of
from ..running.precision import Precision
from .evaluation import why_uncalibrated
from .stages import Stages


class SavingTrainer(TrainerX):
    """Saves, resumes and loads a method, with all that resuming needs and its provenance.

    Attributes:
        provenance: what checkpoints of the run say of it, and of what it resumes or evaluates.
        loaded: the checkpoint that is evaluated; None in a training.
        epoch_lengths: in steps, so far, of a method that plans them.
    """

    method: Method
    precision: Precision
    stages: Stages
    trains: bool
    optim: torch.optim.Optimizer | None
    provenance: Saved
    loaded: Saved | None = None
    resumed: Saved  # the checkpoint that the run was resumed from
    untrained = True  # until prompts are trained or loaded, or `load_model("")` accepts these
    epoch_steps: int
    epoch_lengths: list[int]

    def load_start(self) -> None:
        """Load what the run starts from, and note where all comes from."""
        self.loaded = load_initial(self.cfg, self.method, self.dm.dataset)
        self.untrained = self.loaded is None
        method, data, cfg = self.method, self.dm.dataset, self.cfg
        unlabelled, labels = isinstance(method, Unlabelled), reads_labels(method)
        self.provenance = replace(
            provenance_of(cfg, method, data, self.precision, self.loaded, unlabelled, labels),
            code=code_of(type(method)),
            calibration=why_uncalibrated(method, data, cfg),
        )

    def register_method(self) -> None:
        """Make the optimiser of the first stage, and tell Dassl what checkpoints hold."""
        self.optim = self.sched = None
        if self.trains:
            self.stages = Stages(self.method, self.cfg.OPTIM, self.epoch_steps)
            self.optim, self.sched = self.stages.optimizer(step=0)
        layout = PublicLayout(self.method)
        self.register_model(self.method.public.folder, layout, self.optim, self.sched)

    def folder(self, directory: str) -> str:
        """Return the folder of checkpoints below the output folder of a run."""
        return os.path.join(directory, self.method.public.folder)

    def enter_stage(self, step: int) -> None:
        """Replace the optimiser and the scheduler by those of the stage of a step."""
        self.optim, self.sched = self.stages.optimizer(step)
        name = self.method.public.folder
        self._optims[name], self._scheds[name] = self.optim, self.sched

    def state(self, epoch: int, val_result: Any = None) -> Saved:
        """Return what a checkpoint after so many epochs holds: all that resuming needs."""
        return replace(
            self.provenance,
            state_dict=self._models[self.method.public.folder].state_dict(),
            method=self.method.own_state(),
            optimizer=self.optim and self.optim.state_dict(),
            scheduler=self.sched and self.sched.state_dict(),
            scaler=self.precision.scaler.state_dict(),
            epoch=epoch,
            planned=self.epoch_lengths if isinstance(self.method, Planned) else None,
            val_result=val_result,
            **getattr(super(), "run_state", dict)(),  # dassl-lite's random numbers
        )

    def save_model(self, epoch, directory, is_best=False, val_result=None, model_name=""):
        """Save the prompts as Dassl does, with all that resuming needs and its provenance."""
        content, folder = self.state(epoch + 1, val_result).content(), self.folder(directory)
        save_checkpoint(content, folder, is_best=is_best, model_name=model_name)

    def write_run(self) -> None:
        """Write what the run is, which its checkpoints are compared by, before its first step."""
        if self.output_dir:
            run = self.provenance.identity._replace(code=self.provenance.code)
            write_run(self.output_dir, run=run.as_json())

    def save_epoch(self, epoch: int) -> None:
        """Save an epoch, so that an interrupted run can resume, and remove the one before."""
        every = self.cfg.TRAIN.CHECKPOINT_FREQ
        if epoch < self.max_epoch and not (every > 0 and epoch % every == 0):  # else Dassl has
            self.save_model(self.epoch, self.output_dir)
        remove_earlier(self.folder(self.output_dir), epoch, every)

    def save_resumed(self) -> None:
        """Save what was resumed from another folder, if nothing is left to train."""
        last = checkpoint_file(self.folder(self.output_dir), self.max_epoch)
        if 0 < self.start_epoch == self.max_epoch and not os.path.exists(last):
            self.save_model(self.max_epoch - 1, self.output_dir)

    def check_checkpoint(self, checkpoint, folder):
        """Refuse a checkpoint that this run must not resume from; raises as `Saved`."""
        self.resumed = Saved.to_resume(checkpoint, folder)
        self.resumed.check_resumed(self.state(0), folder)

    def resume_model_if_exist(self, directory):
        """Resume as Dassl does, with all that `save_model` saves; raises as `check_checkpoint`."""
        folder = self.folder(directory)
        last = marked_epoch(folder) * self.epoch_steps - 1
        if self.trains and last > 0 and self.stages.at(last):
            self.enter_stage(last)  # whose optimiser is in the checkpoint
        epoch = super().resume_model_if_exist(directory)
        if epoch:
            if not hasattr(super(), "check_checkpoint"):  # dassl-lite has checked it already
                self.check_checkpoint(read_checkpoint(checkpoint_file(folder, epoch)), folder)
            self.provenance = self.resumed.extend(self.provenance)
            self.epoch_lengths = self.resumed.restore(self.method, self.precision, folder)
        return epoch

    def load_model(self, directory, *others, epoch=None):
        """Load the prompts of a run of this project or of the method's public code.

        Args:
            directory: the run's output folder, or a file of `public_files` or its folder; if
                empty, the prompts keep their initial values.
            others: the epoch, as in Dassl, or the cfg, which CLAP's train.py passes.
            epoch: the epoch; None takes `model-best.pth.tar`, or else the last epoch.
        """
        epoch = next((other for other in others if not isinstance(other, CfgNode)), epoch)
        if not directory:
            if self.untrained and count_passes(self.method):
                make_room(self.method, 0)
            self.untrained = False
            print("No --model-dir is given: the prompts keep their initial values")
            return
        if (saved := find_prompts(self.method, directory, epoch)) is None:
            return
        saved.check_loaded(self.provenance, self.method)
        saved.check_halves(self.provenance, self.dm.dataset)
        self.provenance = saved.extend(self.provenance)
        saved.check_unseen(self.dm.dataset, self.cfg.TEST.SPLIT)
        self.method.load_checkpoint(saved, self.dm.dataset.classnames)
        self.untrained, self.loaded = False, saved

    def check_loaded(self) -> None:
        """Refuse to evaluate what was neither trained nor loaded (UserError)."""
        need(
            not (self.untrained and (self.trains or count_passes(self.method))),
            "The prompts were neither trained nor loaded: call `trainer.load_model(folder)` in "
            "train.py before `trainer.test()`, or give MODEL.INIT_WEIGHTS the checkpoint; "
            "`load_model('')` evaluates them as they are initialised",
        )
