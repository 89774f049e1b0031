"""The Dassl trainer that wraps any method: build, train, save, load, evaluate.

It is long because Dassl's hooks all belong to one class.
"""

import os
from contextlib import nullcontext
from dataclasses import replace

import torch
from dassl.engine import TrainerX
from dassl.utils import save_checkpoint
from yacs.config import CfgNode

from ..backbones import load_clip
from ..building.config import fit_images, make, resolve, settings_in
from ..capabilities.at_test_time import adapts, reset
from ..capabilities.on_support import count_passes, reads_labels, trains_on_support
from ..capabilities.one_view import OneView
from ..capabilities.per_class import make_room
from ..capabilities.planned import Planned
from ..capabilities.staged import Staged, begin_stage
from ..capabilities.unlabelled import Unlabelled
from ..checkpoint.cfg_texts import as_trained
from ..checkpoint.files import checkpoint_file, marked_epoch, read_checkpoint, remove_earlier
from ..checkpoint.identity import write_run
from ..checkpoint.provenance import lacks_teacher, load_initial, provenance_of, teacher_origin
from ..checkpoint.public import find_prompts
from ..checkpoint.saved import Saved
from ..checkpoint.state import PublicLayout
from ..contract import check_logits, first_use
from ..errors import need
from ..method import Batch, Method, Output
from ..plugins import code_of
from ..record.predictions import Predictions
from ..record.results import Evaluation, remove_results, write_results
from ..running.memory import fit, keep_freed_memory
from ..running.precision import Precision, make_deterministic
from ..step import training_step
from .attacks import attacked_steps, evaluate_attacked
from .checks import (
    Watch,
    check_batches,
    check_cfg,
    check_data,
    check_first_step,
    check_method,
    check_optimised,
    note_indistinct,
    updates_buffers,
)
from .detection import Detection
from .evaluation import (
    Recorder,
    calibrate,
    is_foreign,
    save_calibration,
    validation_loader,
    why_uncalibrated,
)
from .feature_rows import OF_DATA, read_rows
from .loaders import first_batches, prepare_loader, resize_in
from .original_dassl import readable
from .planned_steps import count_planned, planned_loader
from .repeatability import check_rebuilt
from .schedule import epochs, steps
from .stages import Stages
from .streams import arranged_loader
from .support_set import take_support, take_validation


class PromptTrainer(TrainerX):
    """Trains and evaluates one method with Dassl; `extend_cfg` makes a subclass for each method.

    Attributes:
        kind: the class of the method.
        method: the method, built for the backbone and the classes of the run.
        provenance: what checkpoints of the run say of it, and of what it resumes or evaluates.
        loaded: the checkpoint that is evaluated; None in a training.
        trains: True if the method takes steps, to learn parameters or to update buffers.
        predictions: those of the last evaluation; None before the first, of tasks (TEST.STREAM),
            or without TEST.PREDICTIONS.
        test_results: of the last evaluation, with the original Dassl only the accuracy.
        detection: scores of the run's own images and of those of the data sets in TEST.OOD.
    """

    kind: type[Method]
    method: Method
    model: Method
    cfg: CfgNode
    optim: torch.optim.Optimizer | None
    provenance: Saved
    half_on_cpu = False  # as of `Precision`
    loaded: Saved | None = None
    resumed: Saved  # the checkpoint that the run was resumed from
    untrained = True  # until prompts are trained or loaded, or `load_model("")` accepts these
    stepped = False  # True after the first training step
    rebuilt_in = -1  # the stage in which the method was last built again from its state
    predictions: Predictions | None = None
    test_results: dict[str, float]
    recorder: Recorder | None = None  # of the evaluation in progress
    classified: Output | None = None  # of its batch, if classified together with others

    # ------------------------------------------------------------------ build

    def __init__(self, cfg: CfgNode):
        if cfg.TRAINER.DETERMINISTIC and cfg.USE_CUDA and torch.cuda.is_available():
            make_deterministic()
        cfg = resolve(cfg)
        check_cfg(cfg, self.kind)
        self.epoch_lengths: list[int] = []  # in steps, so far, of a method that plans them
        super().__init__(cfg)

    def build_data_loader(self):
        """Build Dassl's loaders of images as the backbone reads them, or of rows of features."""
        if file := self.cfg.DATASET.get("FEATURES", ""):
            self.cfg, self.clip_model, self.dm = read_rows(self.cfg, file)
            for name in OF_DATA:
                setattr(self, name, getattr(self.dm, name))
        else:
            name = self.cfg.MODEL.BACKBONE.NAME
            print(f"Loading CLIP (backbone: {name})")
            self.clip_model = load_clip(name)
            self.cfg, changes = fit_images(self.cfg, self.clip_model)
            if changes:
                print(f"Images as {name} reads them: {', '.join(changes)}")
            super().build_data_loader()
            resize_in(self.dm, self.cfg)
        check_data(self.kind, self.cfg, self.dm)
        if issubclass(self.kind, Unlabelled):
            self.train_loader_x = self.train_loader_u
        self.validation = validation_loader(self.test_loader, self.dm.dataset)
        self.detection = Detection(self.cfg, self.kind, self.dm.dataset)
        if not self.cfg.DATALOADER.TRAIN_X.DROP_LAST:
            self.train_loader_x.batch_sampler.drop_last = False
        self.epoch_steps = 1 if issubclass(self.kind, OneView) else len(self.train_loader_x)
        self.max_epoch = epochs(self.cfg.OPTIM, self.epoch_steps)

    def build_model(self):
        """Build the method on its device, and its optimiser and scheduler."""
        cfg, kind, data = self.cfg, self.kind, self.dm.dataset
        settings = settings_in(cfg, kind)
        self.precision = Precision(settings.PREC, self.device, self.half_on_cpu)
        if self.device.type == "cpu":
            keep_freed_memory()
        classnames, clip_model = data.classnames, self.clip_model
        if note := self.precision.note(clip_model):
            print(note)
        self.method = self.model = make(kind, settings, clip_model, classnames, cfg.DATASET.NAME)
        if isinstance(self.method, Unlabelled):
            left_out = getattr(data, "other_classnames", ())
            self.method.take_classes([*classnames, *left_out])
        check_method(self.method, data, cfg)
        self.precision.place(self.method, clip_model)
        make_room(self.method, len(data.train_x))
        with self.precision.autocast(), first_use(self.method):
            note_indistinct(self.method, classnames, cfg.MODEL.BACKBONE.NAME)
        self._prepare_loaders()
        trained = [p for p in self.method.learned().values() if kind.trains]
        self.num_trained = sum(p.numel() for p in trained)
        self.trains = bool(trained) or updates_buffers(kind)
        print(f"Trained parameters: {self.num_trained:,}")
        if trained and not lacks_teacher(self.method):  # else it is only evaluated
            rows = trains_on_support(kind) or bool(cfg.DATASET.get("FEATURES", ""))
            budget = cfg.TRAINER.MEMORY_BUDGET
            with first_use(self.method):
                print(fit(self.method, self.batch_size, budget, self.precision, rows))
        self.watch = Watch(self.device, self._folder(self.output_dir))
        self.loaded = load_initial(cfg, self.method, data)
        self.untrained = self.loaded is None
        self.provenance = replace(
            provenance_of(
                cfg,
                self.method,
                data,
                self.precision,
                self.loaded,
                isinstance(self.method, Unlabelled),
                reads_labels(self.method),
            ),
            code=code_of(kind),
            calibration=why_uncalibrated(self.method, data, cfg),
        )
        self.optim = self.sched = None
        if self.trains:
            self.stages = Stages(self.method, cfg.OPTIM, self.epoch_steps)
            self.optim, self.sched = self.stages.optimizer(step=0)
        layout = PublicLayout(self.method)  # what checkpoints hold
        self.register_model(self.method.public.folder, layout, self.optim, self.sched)

    def _prepare_loaders(self):
        """Let the loaders give images as the method takes them, and in the order of TEST.STREAM."""
        method, cfg = self.method, self.cfg
        for name in ("test_loader", "val_loader", "validation"):
            if getattr(self, name) is not None:
                setattr(self, name, prepare_loader(getattr(self, name), method, cfg))
        self.test_loader = arranged_loader(self, "test")
        self.val_loader = arranged_loader(self, "val")
        self.detection.prepare(method, cfg)
        images = len(self.train_loader_x.dataset)
        all_images = isinstance(method, OneView)
        self.batch_size = images if all_images else min(cfg.DATALOADER.TRAIN_X.BATCH_SIZE, images)

    # ------------------------------------------------------------------ train

    def before_train(self):
        """Begin as Dassl does, and give the method its support."""
        check_batches(self.method, self.train_loader_x)
        super().before_train()
        self._write_run()
        self.train_loader_x = attacked_steps(self, take_support(self, anew=not self.start_epoch))
        if not self.start_epoch:
            with self.precision.autocast():  # it may encode
                begin_stage(self.method, 0)

    def _write_run(self):
        """Write what the run is, which its checkpoints are compared by, before its first step."""
        if self.output_dir:
            run = self.provenance.identity._replace(code=self.provenance.code)
            write_run(self.output_dir, run=run.written())

    def train(self):  # type: ignore[override]
        """Train as Dassl does; a method with nothing to train is only evaluated."""
        self.untrained, self.loaded = False, None
        if self.cfg.TEST.RECORD:
            remove_results(self.cfg)
        if self.trains:
            super().train()
            return save_calibration(self, self._folder(self.output_dir))
        print(f"{type(self).__name__} has nothing to train: evaluating")
        take_support(self, anew=True)
        take_validation(self)
        self._write_run()
        self.test()
        if self.output_dir:
            self.save_model(-1, self.output_dir)  # for `load_run`
        self.close_writer()

    def count_steps(self):
        """Return the number of steps before the current epoch, and that of the whole training."""
        if self.epoch_lengths:
            return count_planned(self.epoch_lengths, self.epoch, self.max_epoch)
        return self.epoch * self.epoch_steps, steps(self.cfg.OPTIM, self.epoch_steps)

    def before_epoch(self):
        """Begin an epoch as Dassl does; it may have planned steps or, the last one, fewer."""
        super().before_epoch()
        if isinstance(self.method, Planned):
            self.train_loader_x = attacked_steps(self, planned_loader(self))
            self.epoch_lengths = [*self.epoch_lengths[: self.epoch], len(self.train_loader_x)]
            return
        before, total = self.count_steps()
        if total - before < self.epoch_steps:
            self.train_loader_x = first_batches(self.train_loader_x, total - before)

    def forward_backward(self, batch):
        """Do one training step, and return its losses and accuracy for Dassl to print."""
        assert self.optim is not None, "nothing is trained without one"
        step = self.count_steps()[0] + self.batch_idx
        if self.stages.begins(step):
            self._enter_stage(step)
            with self.precision.autocast():
                begin_stage(self.method, self.stages.current)
        batch = self.batch_of(batch)
        with nullcontext() if self.stepped else first_use(self.method):
            output, terms = training_step(
                self.method, batch, self.optim, self.precision, self.stages.clip_norm
            )
        if not self.stepped:
            check_logits(self.method, output)
            check_first_step(self.method, terms)
            check_optimised(self.method, self.optim, self.stages.learned())
            self.stepped = True
        self.watch.check_loss(terms["loss"], self.epoch, self.batch_idx, self.num_batches)
        if self.stages.by_step or (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        shown = {name: term.detach() for name, term in terms.items()}
        if not issubclass(self.kind, Unlabelled):
            right = output.logits.detach().argmax(1) == batch.labels
            shown["acc"] = right.float().mean() * 100
        return shown

    def _enter_stage(self, step):
        """Replace the optimiser and the scheduler by those of the stage of a step."""
        self.optim, self.sched = self.stages.optimizer(step)
        name = self.method.public.folder
        self._optims[name], self._scheds[name] = self.optim, self.sched

    def batch_of(self, batch) -> Batch:
        """Return a batch of a loader as the method takes it, on the device of the run."""
        views, labels = self.parse_batch_train(batch)
        if (index := batch.get("index")) is not None:
            index = index.to(self.device, non_blocking=True)
        return self.method.batch(
            views, labels[:0] if issubclass(self.kind, Unlabelled) else labels, index
        )

    def parse_batch_train(self, batch):
        """Return the views and the labels of a batch, on the device of the run."""
        views = batch["img"] if isinstance(batch["img"], list) else [batch["img"]]
        views = [view.to(self.device, non_blocking=True) for view in views]
        return views, batch["label"].to(self.device, non_blocking=True)

    def after_epoch(self):
        """End an epoch as Dassl does, and save it so that an interrupted run can resume."""
        epoch = self.epoch + 1
        if isinstance(self.method, Staged):
            self.method.after_epoch(epoch, self.max_epoch)
        assert self.optim is not None, "epochs are of a training"
        check_optimised(self.method, self.optim, self.stages.learned())
        if epoch == self.max_epoch:
            take_validation(self)
        first = self.rebuilt_in != self.stages.current
        if is_foreign(self.kind) and (first or epoch == self.max_epoch):
            self.check_rebuilt()
            self.rebuilt_in = self.stages.current
        self.watch.check_learned(self.method, epoch)
        super().after_epoch()
        every = self.cfg.TRAIN.CHECKPOINT_FREQ
        if epoch < self.max_epoch and not (every > 0 and epoch % every == 0):  # else Dassl has
            self.save_model(self.epoch, self.output_dir)
        remove_earlier(self._folder(self.output_dir), epoch, every)

    def check_rebuilt(self):
        """Check that the method computes the same when it is built again from its state."""
        check_rebuilt(self)

    # ------------------------------------------------------------------ save, resume, load

    def state(self, epoch, val_result=None) -> Saved:
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
        content, folder = self.state(epoch + 1, val_result).content(), self._folder(directory)
        save_checkpoint(content, folder, is_best=is_best, model_name=model_name)

    def check_checkpoint(self, checkpoint, folder):
        """Refuse a checkpoint that this run must not resume from; raises as `Saved`."""
        self.resumed = Saved.to_resume(checkpoint, folder)
        self.resumed.check_resumed(self.state(0), folder)

    def resume_model_if_exist(self, directory):
        """Resume as Dassl does, with all that `save_model` saves; raises as `check_checkpoint`."""
        folder = self._folder(directory)
        last = marked_epoch(folder) * self.epoch_steps - 1
        if self.trains and last > 0 and self.stages.at(last):
            self._enter_stage(last)  # whose optimiser is in the checkpoint
        with readable():
            epoch = super().resume_model_if_exist(directory)
        if epoch:
            if not hasattr(super(), "check_checkpoint"):  # dassl-lite has checked it already
                self.check_checkpoint(read_checkpoint(checkpoint_file(folder, epoch)), folder)
            self.provenance = self.resumed.extend(self.provenance)
            self.epoch_lengths = self.resumed.restore(self.method, self.precision, folder)
        return epoch

    def _folder(self, directory: str) -> str:
        return os.path.join(directory, self.method.public.folder)

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

    # ------------------------------------------------------------------ evaluate

    def test(self, split=None, is_final=False):
        """Evaluate as Dassl does, and keep the prediction of each image.

        Args:
            split: as in Dassl.
            is_final: ends the process in ATPrompt's Dassl; ignored here.
        """
        need(
            not (self.untrained and (self.trains or count_passes(self.method))),
            "The prompts were neither trained nor loaded: call `trainer.load_model(folder)` in "
            "train.py before `trainer.test()`, or give MODEL.INIT_WEIGHTS the checkpoint; "
            "`load_model('')` evaluates them as they are initialised",
        )
        self.recorder = None  # of an evaluation that was interrupted
        if self.cfg.TEST.PREDICTIONS:
            self.recorder = Recorder(self, split or self.cfg.TEST.SPLIT)
        self.detection.begin(split)
        reset(self.method)
        self.test_results, self.attacked = {}, {}
        result = super().test(split)
        self.test_results = self.test_results or {"accuracy": result}
        self.watch.check_logits()
        if self.recorder is not None:
            self.predictions, self.test_results = self.recorder.end(self.test_results)
            self.recorder, self.provenance = None, calibrate(self)
        self.detection.evaluate_others(self)
        self.attacked = evaluate_attacked(self, split)
        if self.cfg.TEST.RECORD and split in (None, self.cfg.TEST.SPLIT):
            write_results(self.evaluation())
        return result

    def evaluation(self) -> Evaluation:
        """Return the last evaluation, for the record; raises as `Evaluation.of`.

        If a training was loaded, settings of that are as it had them.
        """
        cfg, then = self.cfg, self.loaded
        loader = self.val_loader if self.cfg.TEST.SPLIT == "val" else self.test_loader
        stream = getattr(loader, "stream", None)
        trained = getattr(self, "train_seconds", 0.0)  # not measured by the original Dassl
        return Evaluation.of(
            self,
            cfg=as_trained(cfg, then.identity, self.method, then.place, adapts(self.method))
            if then
            else cfg,
            method=self.method,
            provenance=self.provenance,
            training=then,
            predictions=self.predictions,
            more=self.attacked | self.detection.measure(),
            stream=stream and {"name": stream.name, "order": stream.digest},
            num_trained=self.num_trained,
            steps=self.count_steps()[1] if trained else 0,
            teacher=teacher_origin(self.method),
        )

    def parse_batch_test(self, batch):
        """Return the images and labels of a batch, and record the file names.

        The images are a list of views if the method takes several.
        """
        views, label = self.parse_batch_train(batch)
        self.classified = batch.get("output")
        if self.recorder is not None:
            self.recorder.predictions.add_images(batch["impath"], label)
        return (views if isinstance(batch["img"], list) else views[0]), label

    def model_inference(self, input):
        """Return the logits (B, K) of a batch; they are recorded, and checked to be finite."""
        with self.precision.autocast():
            with first_use(self.method):
                output = self.classified or self.method.predict(input)
            if self.recorder is not None:
                self.recorder.add(output)
        self.detection.see(self.method, output)
        self.watch.see_logits(output.logits)
        return output.logits
