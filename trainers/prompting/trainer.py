"""The trainer that every method shares: build, step, precision, save, load, evaluate."""

import os

import torch
import torch.nn.functional as F
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint
from torch import nn

from . import PromptedCLIP, PromptSpec, UserError, load_clip
from .backbones.openai_clip import model as openai_model
from .memory import GIB, ITEMSIZE, keep_freed_memory, memory_budget

CHECK_EVERY = 20  # steps between two looks at the loss where a look waits for the accelerator


def register(cls):
    """Register a method with Dassl, unless the checkout around us has its own of that name."""
    if cls.__name__ not in TRAINER_REGISTRY.registered_names():
        TRAINER_REGISTRY.register()(cls)
    return cls


class PublicLayout(nn.Module):
    """What Dassl saves and loads of a model: the prompts alone, named as in public checkpoints.

    Args:
        model: the prompted CLIP; train and eval modes reach it through this module.
        submodule: the public method saves its `prompt_learner` alone, without the prefix.
    """

    def __init__(self, model: PromptedCLIP, submodule: bool):
        super().__init__()
        self.model = model
        self.prefix = "prompt_learner." if submodule else ""

    def state_dict(self, *args, **kwargs):
        state = self.model.public_state_dict()
        return {name.removeprefix(self.prefix): value for name, value in state.items()}

    def load_state_dict(self, state_dict, strict=True, assign=False):
        self.model.load_public_state_dict(state_dict)


class PromptTrainer(TrainerX):
    """Base of all methods; a method adds its cfg node and its point in the space of prompts.

    Class attributes:
        node: name of the method's node under `cfg.TRAINER`.
        defaults: the node's keys with their public values.
        ignored: keys of the public node that mean nothing here; a run that sets one is warned.
        checkpoint: name of the folder that the public method saves its model in.
        saves_submodule: whether public checkpoints hold the `prompt_learner` alone.
    """

    node: str
    defaults: dict
    ignored: tuple[str, ...] = ()
    checkpoint = "prompt_learner"
    saves_submodule = False

    @staticmethod
    def spec(node) -> PromptSpec:
        """The method's point in the space; `node` has the keys of `defaults` as attributes."""
        raise UserError("PromptTrainer is the base of the methods: choose one of them")

    # ------------------------------------------------------------------ build

    def build_model(self):
        from .config import prompt_spec  # it imports the methods, which import this module

        cfg = self.cfg
        node = dict(cfg.TRAINER.get(self.node, {}))
        spec = prompt_spec(type(self).__name__, node)
        self.precision = node.get("PREC", "fp32")
        if self.precision not in ("fp16", "fp32", "amp"):
            raise UserError(f"PREC is '{self.precision}' but must be fp16, fp32 or amp")
        on_cuda = self.device.type == "cuda"
        if not on_cuda:
            keep_freed_memory()
        if self.precision == "fp16" and not on_cuda:
            print("PREC fp16 needs CUDA: on the CPU this run computes in fp32")
            self.precision = "fp32"

        classnames = self.dm.dataset.classnames
        if len(classnames) < 2:
            raise UserError(
                f"The data set has {len(classnames)} class: at least 2 are needed to tell apart"
            )
        print(f"Loading CLIP (backbone: {cfg.MODEL.BACKBONE.NAME})")
        clip_model = load_clip(cfg.MODEL.BACKBONE.NAME)
        resolution = clip_model.visual.input_resolution
        if tuple(cfg.INPUT.SIZE) != (resolution, resolution):
            raise UserError(
                f"INPUT.SIZE is {tuple(cfg.INPUT.SIZE)} but {cfg.MODEL.BACKBONE.NAME} reads "
                f"{resolution}x{resolution} images: set INPUT.SIZE ({resolution}, {resolution})"
            )
        self.model = PromptedCLIP(clip_model, classnames, spec, cfg.DATASET.NAME)
        amp_dtype = torch.float16 if on_cuda else torch.bfloat16
        if self.precision == "fp16":  # frozen towers alone; prompts and scores stay float32
            openai_model.convert_weights(clip_model)
        elif self.precision == "amp":
            self.model.hold_weights_in(amp_dtype)
        self.model.to(self.device)
        trained = list(self.model.public_parameters().values())
        self.num_trained = sum(p.numel() for p in trained)
        print(spec)
        print(f"Trained parameters: {self.num_trained:,}")
        if trained:
            self.fit_memory()
        if cfg.TRAINER.COMPILE:
            obstacle = self.model.compile_blocks()
            cannot = f"this machine cannot, running without ({obstacle})"
            print(f"COMPILE: {cannot if obstacle else 'torch.compile fuses the blocks'}")

        layout = PublicLayout(self.model, self.saves_submodule)
        if cfg.MODEL.INIT_WEIGHTS and trained:
            layout.load_state_dict(load_checkpoint(cfg.MODEL.INIT_WEIGHTS)["state_dict"])
        self.optim = self.sched = None
        if trained:
            self.optim = build_optimizer(self.model.prompt_learner, cfg.OPTIM)
            self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model(self.checkpoint, layout, self.optim, self.sched)

        self.autocast = {
            "device_type": self.device.type,
            "dtype": amp_dtype,
            "enabled": self.precision == "amp",
        }
        half = on_cuda and self.precision != "fp32"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.first_bad = torch.tensor(-1, device=self.device)

    def fit_memory(self):
        """Recompute activations where a training step would not fit, and say so."""
        cfg = self.cfg
        budget = memory_budget(cfg.TRAINER.MEMORY_BUDGET, self.device)
        batch, itemsize = cfg.DATALOADER.TRAIN_X.BATCH_SIZE, ITEMSIZE[self.precision]
        plan = self.model.fit_memory(budget, batch, itemsize)
        again = f"the {' and '.join(plan.recompute)} blocks" if plan.recompute else "nothing"
        print(
            f"Memory: a step keeps about {plan.needed / GIB:.2f} GiB of activations, the budget is "
            f"{budget / GIB:.2f} GiB; {again} will be recomputed"
        )

    # ------------------------------------------------------------------ train

    def train(self):
        if self.num_trained:
            return super().train()
        print(f"{type(self).__name__} has nothing to train: evaluating")
        self.test()
        self.close_writer()

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        with torch.autocast(**self.autocast):
            output = self.model(image)
        loss = F.cross_entropy(output, label)
        self.check_finite(loss)
        self.optim.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optim)
        self.scaler.update()
        accuracy = (output.detach().argmax(1) == label).float().mean() * 100
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss.detach(), "acc": accuracy}

    def parse_batch_train(self, batch):
        return (
            batch["img"].to(self.device, non_blocking=True),
            batch["label"].to(self.device, non_blocking=True),
        )

    def check_finite(self, loss):
        """Stop when the loss is not finite; the last checkpoint stays as it is.

        Raises:
            UserError: names the epoch and the step.
        """
        step = self.batch_idx
        bad = ~torch.isfinite(loss.detach()) & (self.first_bad < 0)
        self.first_bad = torch.where(bad, step, self.first_bad)
        last = step + 1 == self.num_batches
        if self.device.type == "cpu" or last or step % CHECK_EVERY == 0:
            first_bad = int(self.first_bad)
            if first_bad >= 0:
                error = UserError(
                    f"The loss is not finite in epoch {self.epoch + 1}, step {first_bad + 1}: "
                    "lower OPTIM.LR or set PREC fp32 (the last checkpoint is kept in "
                    f"{os.path.join(self.output_dir, self.checkpoint)})"
                )
                error.exit_code = 1
                raise error

    def after_epoch(self):
        """As in Dassl, and keep the latest epoch so that an interrupted run can go on."""
        super().after_epoch()

        def kept(epoch):
            frequency = self.cfg.TRAIN.CHECKPOINT_FREQ
            return epoch == self.max_epoch or (frequency > 0 and epoch % frequency == 0)

        epoch = self.epoch + 1
        if not kept(epoch):
            self.save_model(self.epoch, self.output_dir)
        if not kept(epoch - 1):
            previous = self.checkpoint_file(self.output_dir, epoch - 1)
            if os.path.exists(previous):
                os.remove(previous)

    # ------------------------------------------------------------------ evaluate

    def model_inference(self, input):
        with torch.autocast(**self.autocast):
            return self.model(input)

    def checkpoint_file(self, directory, epoch) -> str:
        return os.path.join(directory, self.checkpoint, f"model.pth.tar-{epoch}")

    def load_model(self, directory, epoch=None):
        """Load the prompts of a run, ours or a public one.

        Args:
            directory: the run's output folder; nothing is loaded when it is empty.
            epoch: the epoch; None takes `model-best.pth.tar`, or else the last epoch.

        Raises:
            UserError: there is no such checkpoint, or it does not fit the method.
        """
        if not directory:
            print("No --model-dir is given: the prompts stay as they were initialised")
            return
        if not self.num_trained:
            return
        folder = os.path.join(directory, self.checkpoint)
        if epoch is not None:
            path = self.checkpoint_file(directory, epoch)
        else:
            path = os.path.join(folder, "model-best.pth.tar")
            if not os.path.exists(path):
                names = os.listdir(folder) if os.path.isdir(folder) else []
                epochs = [n.rpartition("-")[2] for n in names if n.startswith("model.pth.tar-")]
                last = max((int(e) for e in epochs if e.isdigit()), default=None)
                path = path if last is None else self.checkpoint_file(directory, last)
        if not os.path.exists(path):
            raise UserError(
                f"There is no checkpoint '{path}': give --model-dir the output folder of a "
                f"{type(self).__name__} run, and --load-epoch an epoch that it saved"
            )
        checkpoint = load_checkpoint(path)
        print(f"Loading prompts from '{path}' (epoch {checkpoint.get('epoch', '?')})")
        self._models[self.checkpoint].load_state_dict(checkpoint.get("state_dict", checkpoint))
