"""The Dassl trainer that wraps any method: build, train, save, load, evaluate.

It is long because Dassl's hooks all belong to one class.
"""

from typing import Any

import torch
from yacs.config import CfgNode

from ..backbones import load_clip
from ..building.build import make
from ..building.config import fit_images, resolve, settings_in
from ..building.toward_start import start_weights, toward_start
from ..capabilities import OneView, Unlabelled
from ..capabilities.at_test_time import reset
from ..capabilities.on_support import trains_on_support
from ..capabilities.per_class import make_room
from ..capabilities.staged import after_epoch, begin_stage
from ..checkpoint.provenance import lacks_teacher
from ..method import Batch, Method, Output
from ..record.predictions import Predictions
from ..record.results import Evaluation, remove_results, write_results
from ..record.scores import Scores
from ..running.memory import fit, keep_freed_memory
from ..running.precision import Precision, make_deterministic
from ..step import training_step
from .attacks import attacked_steps, evaluate_attacked
from .checks import (
    Watch,
    check_cfg,
    check_data,
    check_method,
    note_indistinct,
    updates_buffers,
)
from .detection import Detection
from .evaluation import Recorder, calibrate, evaluation_of, save_calibration, validation_loader
from .feature_rows import OF_DATA, read_rows
from .in_use import InUse
from .loaders import prepare_loader, resize_in
from .multi_label import MultiLabel
from .planned_steps import count_steps, loader_of_epoch
from .saving import SavingTrainer
from .schedule import epochs
from .streams import arranged_loader
from .support_set import start_bias, take_support, take_validation


class PromptTrainer(SavingTrainer):
    """Trains and evaluates one method with Dassl; `extend_cfg` makes a subclass for each method.

    Attributes:
        kind: the class of the method.
        method: the method, built for the backbone and the classes of the run.
        trains: True if the method takes steps, to learn parameters or to update buffers.
        predictions: those of the last evaluation; None before the first, of tasks (TEST.STREAM),
            or without TEST.PREDICTIONS.
        test_results: of the last evaluation, with the original Dassl only the accuracy.
        detection: scores of the run's own images and of those of the data sets in TEST.OOD.
    """

    kind: type[Method]
    model: Method
    cfg: CfgNode
    uses = InUse  # the checks of a method in use
    predictions: Predictions | Scores | None = None
    test_results: dict[str, float]
    recorder: Recorder | MultiLabel | None = None  # of the evaluation in progress
    classified: Output | None = None  # of its batch, if classified together with others

    # ------------------------------------------------------------------ build

    def __init__(self, cfg: CfgNode):
        if cfg.TRAINER.DETERMINISTIC and cfg.USE_CUDA and torch.cuda.is_available():
            make_deterministic()
        cfg = resolve(cfg)
        check_cfg(cfg, self.kind)
        self.epoch_lengths = []
        super().__init__(cfg)
        if self.method.settings.several:
            print(f"Loading evaluator: MultiLabel in place of {cfg.TEST.EVALUATOR}")
            difficult = getattr(self.dm.dataset, "difficult", False)
            self.evaluator = MultiLabel(self.method.several == "decides", difficult)

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
        self.validation = validation_loader(self.test_loader, self.dm.dataset)
        self.detection = Detection(self.cfg, self.kind, self.dm.dataset)
        if not self.cfg.DATALOADER.TRAIN_X.DROP_LAST:
            self.training_images.batch_sampler.drop_last = False
        self.epoch_steps = 1 if issubclass(self.kind, OneView) else len(self.training_images)
        self.max_epoch = epochs(self.cfg.OPTIM, self.epoch_steps)

    @property
    def training_images(self) -> Any:
        """The loader of the images that steps take, in its own order."""
        return self.train_loader_u if issubclass(self.kind, Unlabelled) else self.train_loader_x

    def build_model(self):
        """Build the method on its device, and its optimiser and scheduler.

        Each step needs those before it: a method is refused before anything costs time; it is on
        its device, in its precision and size, when it computes; loaders give the size of a batch,
        whose memory is measured before weights are loaded, which it does not change; the optimiser
        comes last, as it keeps the tensors that are there.
        """
        self._make_method()
        check_method(self.method, self.dm.dataset, self.cfg)
        self._place_method()
        self._prepare_loaders()
        self._measure_memory()
        self.watch, self.in_use = Watch(self.device, self.folder(self.output_dir)), self.uses(self)
        self.load_start()
        self.register_method()

    def _make_method(self):
        """Make the method on the CPU, for the classes of the run."""
        cfg, data = self.cfg, self.dm.dataset
        several = bool(getattr(data, "several", False))  # the original Dassl's say nothing
        settings = settings_in(cfg, self.kind, several=several)
        self.precision = Precision(settings.PREC, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        if note := self.precision.note(self.clip_model):
            print(note)
        place = self.clip_model, data.classnames, cfg.DATASET.NAME
        self.method = self.model = make(self.kind, settings, *place)
        wise = cfg.TEST.WISE != 1
        self.clip_start = start_weights(self.method, self.clip_model) if wise else None
        if isinstance(self.method, Unlabelled):
            left_out = getattr(data, "other_classnames", ())
            self.method.take_classes([*data.classnames, *left_out])

    def _place_method(self):
        """Move the method to its device, with room for the training images."""
        data = self.dm.dataset
        self.precision.place(self.method, self.clip_model)
        make_room(self.method, len(data.train_x))
        with self.precision.autocast():
            note_indistinct(self.method, data.classnames, self.cfg.MODEL.BACKBONE.NAME)

    def _prepare_loaders(self):
        """Let the loaders give images as the method takes them, and in the order of TEST.STREAM."""
        method, cfg = self.method, self.cfg
        for name in ("test_loader", "val_loader", "validation"):
            if getattr(self, name) is not None:
                setattr(self, name, prepare_loader(getattr(self, name), method, cfg))
        self.test_loader = arranged_loader(self, "test")
        self.val_loader = arranged_loader(self, "val")
        self.detection.prepare(method, cfg)
        images = len(self.training_images.dataset)
        all_images = isinstance(method, OneView)
        self.batch_size = images if all_images else min(cfg.DATALOADER.TRAIN_X.BATCH_SIZE, images)

    def _measure_memory(self):
        """Count what is trained, and let a step fit into the memory."""
        method, cfg = self.method, self.cfg
        trained = [p for p in method.learned().values() if self.kind.trains]
        self.num_trained = sum(p.numel() for p in trained)
        self.trains = bool(trained) or updates_buffers(self.kind)
        print(f"Trained parameters: {self.num_trained:,}")
        if trained and not lacks_teacher(method):  # else it is only evaluated
            rows = trains_on_support(self.kind) or bool(cfg.DATASET.get("FEATURES", ""))
            budget = cfg.TRAINER.MEMORY_BUDGET
            print(fit(method, self.batch_size, budget, self.precision, rows))

    # ------------------------------------------------------------------ train

    def before_train(self):
        """Begin as Dassl does, and give the method its support."""
        super().before_train()
        self.write_run()
        self.save_resumed()
        self.steps = attacked_steps(self, take_support(self, anew=not self.start_epoch))
        if not self.start_epoch:
            start_bias(self)
            with self.precision.autocast():  # it may encode
                begin_stage(self.method, 0)

    def train(self):  # type: ignore[override]
        """Train as Dassl does; a method with nothing to train is only evaluated."""
        self.untrained, self.loaded = False, None
        if self.cfg.TEST.RECORD:
            remove_results(self.cfg)
        if self.trains:
            super().train()
            return save_calibration(self, self.folder(self.output_dir))
        print(f"{type(self).__name__} has nothing to train: evaluating")
        take_support(self, anew=True)
        take_validation(self)
        self.write_run()
        self.test()
        if self.output_dir:
            self.save_model(-1, self.output_dir)  # for `load_run`
        self.close_writer()

    def count_steps(self):  # which Dassl's own loop calls
        """Return the number of steps before the current epoch, and that of the whole training."""
        return count_steps(self)

    def before_epoch(self):
        """Begin an epoch as Dassl does; it may have planned steps or, the last one, fewer."""
        super().before_epoch()
        self.train_loader_x = loader_of_epoch(self)

    def forward_backward(self, batch):
        """Do one training step, and return its losses and accuracy for Dassl to print."""
        assert self.optim is not None, "nothing is trained without one"
        step = self.count_steps()[0] + self.batch_idx
        if self.stages.begins(step):
            self.enter_stage(step)
            with self.precision.autocast():
                begin_stage(self.method, self.stages.current)
        batch = self.batch_of(batch)
        output, terms = training_step(
            self.method, batch, self.optim, self.precision, self.stages.clip_norm
        )
        self.in_use.after_step(output, terms)
        self.watch.check_loss(terms["loss"], self.epoch, self.batch_idx, self.num_batches)
        if self.stages.by_step or (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        shown = {name: term.detach() for name, term in terms.items()}
        if not (self.method.settings.several or issubclass(self.kind, Unlabelled)):
            right = output.logits.detach().argmax(1) == batch.labels
            shown["acc"] = right.float().mean() * 100
        return shown

    def batch_of(self, batch) -> Batch:
        """Return a batch of a loader as the method takes it, on the device of the run."""
        views, labels = self.parse_batch_train(batch)
        if (index := batch.get("index")) is not None:
            index = index.to(self.device, non_blocking=True)
        none = issubclass(self.kind, Unlabelled)
        return self.method.batch(views, labels[:0] if none else labels, index)

    def parse_batch_train(self, batch):
        """Return the views and the labels of a batch, on the device of the run."""
        views = batch["img"] if isinstance(batch["img"], list) else [batch["img"]]
        views = [view.to(self.device, non_blocking=True) for view in views]
        return views, batch["label"].to(self.device, non_blocking=True)

    def after_epoch(self):
        """End an epoch as Dassl does, and save it so that an interrupted run can resume."""
        epoch = self.epoch + 1
        after_epoch(self.method, epoch, self.max_epoch)
        self.in_use.after_epoch()
        if epoch == self.max_epoch:
            take_validation(self)
        self.in_use.at_end(last=epoch == self.max_epoch)
        self.watch.check_learned(self.method, epoch)
        super().after_epoch()
        self.save_epoch(epoch)

    # ------------------------------------------------------------------ evaluate

    def test(self, split=None, is_final=False):
        """Evaluate as Dassl does, with the weights of TEST.WISE; keep the prediction of each image.

        Args:
            split: as in Dassl.
            is_final: ends the process in ATPrompt's Dassl; ignored here.
        """
        self.check_loaded()
        with toward_start(self.method, self.clip_start, self.cfg.TEST.WISE):
            return self._test(split)

    def _test(self, split):
        self.recorder = None  # of an evaluation that was interrupted
        if self.cfg.TEST.PREDICTIONS:
            several = isinstance(self.evaluator, MultiLabel)
            self.recorder = (
                self.evaluator if several else Recorder(self, split or self.cfg.TEST.SPLIT)
            )
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
        """Return the last evaluation, for the record."""
        return evaluation_of(self)

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
            output = self.classified or self.method.predict(input)
            if self.recorder is not None:
                self.recorder.add(output)
        self.detection.see(self.method, output)
        self.watch.see_logits(output.logits)
        return output.logits
