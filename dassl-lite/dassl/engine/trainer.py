"""Trainers with data, a model, checkpoints and evaluation."""

import datetime
import os.path as osp
import time

import torch

from dassl.data import DataManager
from dassl.evaluation import build_evaluator
from dassl.utils import (
    AverageMeter,
    MetricMeter,
    Registry,
    UserError,
    load_checkpoint,
    mkdir_if_missing,
    progress,
    unknown_name,
)

from .base import TrainerBase

TRAINER_REGISTRY = Registry("TRAINER")
CHOICES = {"SPLIT": ["test", "val"], "FINAL_MODEL": ["best_val", "last_step"]}  # of cfg.TEST
SILENCE = 5.0  # seconds; slow steps are reported at least this often, for any PRINT_FREQ


def __getattr__(name):
    """Return SummaryWriter, which public codes import from here; it is slow to import."""
    if name == "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def build_trainer(cfg):
    """Build the trainer that `cfg.TRAINER.NAME` names."""
    return TRAINER_REGISTRY.build(cfg.TRAINER.NAME, cfg)


class SimpleTrainer(TrainerBase):
    """A trainer that builds its data, model and evaluator from a config.

    After `test`, `test_results` holds the evaluator's results, `test_seconds` its time.
    """

    model: torch.nn.Module

    def __init__(self, cfg):
        super().__init__()
        if cfg.OPTIM.MAX_EPOCH < 1:  # it would be tested untrained
            raise UserError(f"OPTIM.MAX_EPOCH is {cfg.OPTIM.MAX_EPOCH} but must be 1 or more")
        for key, valid in CHOICES.items():
            if cfg.TEST[key] not in valid:
                raise unknown_name(f"TEST.{key}", cfg.TEST[key], valid)
        self.check_cfg(cfg)
        use_cuda = torch.cuda.is_available() and cfg.USE_CUDA
        self.device = torch.device("cuda" if use_cuda else "cpu")
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.cfg = cfg
        self.build_data_loader()
        if cfg.TEST.SPLIT == "val" or cfg.TEST.FINAL_MODEL == "best_val":
            self._loader_of("val")
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)
        self.best_result = float("-inf")

    def check_cfg(self, cfg):
        """Raise an error if the config does not suit the trainer; nothing to check here."""

    def build_data_loader(self):
        """Build the data manager `dm`, and set the loaders and attributes that it provides."""
        self.dm = DataManager(self.cfg)
        self.train_loader_x = self.dm.train_loader_x
        self.train_loader_u = self.dm.train_loader_u
        self.val_loader = self.dm.val_loader
        self.test_loader = self.dm.test_loader
        self.num_classes = self.dm.num_classes
        self.num_source_domains = self.dm.num_source_domains
        self.lab2cname = self.dm.lab2cname

    def _loader_of(self, split):
        """Return the loader of `test` or `val`; test images never replace missing ones of `val`."""
        if split != "val":
            return self.test_loader
        if self.val_loader is None:
            raise UserError(
                f"Validation images are needed, but {self.cfg.DATASET.NAME} has none: set "
                "TEST.SPLIT test and TEST.FINAL_MODEL last_step"
            )
        return self.val_loader

    def build_model(self):
        """Build `model` on `device`, and register what is trained."""
        raise NotImplementedError

    def train(self):  # type: ignore[override]
        """Run the remaining epochs, with the hooks before and after the training."""
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self):
        """Resume from a checkpoint, if one exists, and start the curves."""
        if self.cfg.DATASET.NUM_SHOTS == 0:
            raise UserError(
                "DATASET.NUM_SHOTS is 0, which leaves nothing to train on: -1 takes all"
            )
        source = self.cfg.RESUME or self.output_dir
        self.start_epoch = self.resume_model_if_exist(source)
        if not self.start_epoch and osp.abspath(source) != osp.abspath(self.output_dir):
            raise UserError(f"There is no checkpoint in '{source}' to resume from: check RESUME")
        best = osp.join(self.output_dir, self.get_model_names()[0], "model-best.pth.tar")
        if self.start_epoch and self.cfg.TEST.FINAL_MODEL == "best_val" and osp.exists(best):
            self.best_result = load_checkpoint(best)["val_result"]
        writer_dir = osp.join(self.output_dir, "tensorboard")
        mkdir_if_missing(writer_dir)
        self.init_writer(writer_dir)
        self.time_start = time.time()

    def after_train(self):
        """Evaluate the last model, or the best one, according to TEST."""
        print("Finish training")
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                print("Deploy the model with the best val performance")
                self.load_model(self.output_dir)
            else:
                print("Deploy the last-epoch model")
            self.test()
        elapsed = datetime.timedelta(seconds=round(time.time() - self.time_start))
        print(f"Elapsed: {elapsed}")
        self.close_writer()

    def after_epoch(self):
        """Evaluate on validation images and write checkpoints, if the config asks for it."""
        epoch, freq = self.epoch + 1, self.cfg.TRAIN.CHECKPOINT_FREQ
        if not self.cfg.TEST.NO_TEST and self.cfg.TEST.FINAL_MODEL == "best_val":
            result = self.test(split="val")
            if result > self.best_result:
                self.best_result = result
                name = "model-best.pth.tar"
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name=name)
        if epoch == self.max_epoch or (freq > 0 and epoch % freq == 0):
            self.save_model(self.epoch, self.output_dir)

    @torch.no_grad()
    def test(self, split=None):
        """Evaluate on `split`, test or val (default: TEST.SPLIT); return the accuracy.

        With another evaluator, its first result is returned.
        """
        started = time.perf_counter()
        self.set_model_mode("eval")
        self.evaluator.reset()
        split = split or self.cfg.TEST.SPLIT
        data_loader = self._loader_of(split)
        print(f"Evaluate on the *{split}* set")
        for batch in progress(data_loader):
            input, label = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(input), label)
        results = self.evaluator.evaluate()
        for name, value in results.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        self.test_results = dict(results)
        self.test_seconds = time.perf_counter() - started
        return next(iter(results.values()))

    def model_inference(self, input):
        """Return the logits (B, K) of the images from `parse_batch_test`."""
        return self.model(input)

    def parse_batch_test(self, batch):
        """Return the images (B, 3, H, W) and labels (B,) of a batch, on `device`."""
        return self._to_device(batch["img"], batch["label"])

    def _to_device(self, *tensors):
        # non-blocking if the loader has pinned them
        return tuple(tensor.to(self.device, non_blocking=True) for tensor in tensors)


class TrainerX(SimpleTrainer):
    """A trainer on labelled data; a subclass implements one step, `forward_backward(batch)`."""

    def run_epoch(self):
        """Do a step for each batch, and print progress."""
        self.set_model_mode("train")
        self.num_batches = len(self.train_loader_x)
        losses, batch_time, data_time = MetricMeter(), AverageMeter(), AverageMeter()
        end = reported = time.perf_counter()
        for batch_idx, batch in enumerate(self.train_loader_x):
            self.batch_idx = batch_idx
            data_time.update(time.perf_counter() - end)
            losses.update(self.forward_backward(batch))
            now = time.perf_counter()
            batch_time.update(now - end)
            end = now
            done = batch_idx + 1
            meets_freq = done % self.cfg.TRAIN.PRINT_FREQ == 0
            if meets_freq or done == self.num_batches or now - reported > SILENCE:
                self._report(losses, batch_time, data_time)
                reported = now
        self.losses = {name: meter.avg for name, meter in losses.meters.items()}

    def count_steps(self):
        """Return the number of steps before the current epoch, and that of the whole training."""
        return self.epoch * self.num_batches, self.max_epoch * self.num_batches

    def _report(self, losses, batch_time, data_time):
        done = self.batch_idx + 1
        before, total = self.count_steps()
        eta = datetime.timedelta(seconds=int(batch_time.avg * (total - before - done)))
        lr = self.get_current_lr()
        first = [name for name in ("loss", "acc") if name in losses.meters]
        others = [name for name in losses.meters if name not in first]
        words = [  # the most important come first, within 80 columns
            f"epoch [{self.epoch + 1}/{self.max_epoch}] batch [{done}/{self.num_batches}]",
            *map(losses.text_of, first),
            f"eta {eta}",
            *map(losses.text_of, others),
            f"lr {lr:.4e}",
            f"time {batch_time.val:.3f} ({batch_time.avg:.3f})",
            f"data {data_time.val:.3f} ({data_time.avg:.3f})",
        ]
        print(" ".join(words), flush=True)
        step = before + self.batch_idx
        for name, meter in losses.meters.items():
            self.write_scalar(f"train/{name}", meter.avg, step)
        self.write_scalar("train/lr", lr, step)

    def parse_batch_train(self, batch):
        """Return images (B, 3, H, W), labels (B,) and domains (B,) of a batch, on `device`."""
        return self._to_device(batch["img"], batch["label"], batch["domain"])
