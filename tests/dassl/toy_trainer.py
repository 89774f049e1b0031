"""A trainer like those of public code for the original Dassl; dassl-lite must run it unmodified."""

import os.path as osp

import torch
import torch.nn as nn
from dassl.data import DataManager  # noqa: F401 (such trainers import it)
from dassl.data.data_manager import DatasetWrapper, build_data_loader  # noqa: F401
from dassl.data.transforms.transforms import INTERPOLATION_MODES, build_transform  # noqa: F401
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint, load_pretrained_weights
from torch.nn import functional as F
from yacs.config import CfgNode as CN


def extend_cfg(cfg):
    cfg.TRAINER.TOYPROMPTS = CN()
    cfg.TRAINER.TOYPROMPTS.N_CTX = 4
    cfg.TRAINER.TOYPROMPTS.PREC = "fp32"
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"


class PromptLearner(nn.Module):
    def __init__(self, cfg, classnames):
        super().__init__()
        n_ctx = cfg.TRAINER.TOYPROMPTS.N_CTX
        self.ctx = nn.Parameter(torch.randn(n_ctx, 16) * 0.02)
        names = torch.stack([torch.eye(16)[len(name)] for name in classnames])
        self.register_buffer("token_prefix", names)
        self.dropout = nn.Dropout(0.1)
        self.mix = nn.Linear(16 * (n_ctx + 1), 16)

    def forward(self):
        ctx = self.dropout(self.ctx).flatten().expand(len(self.token_prefix), -1)
        return self.mix(torch.cat([self.token_prefix, ctx], dim=1))


class CustomModel(nn.Module):
    def __init__(self, cfg, classnames):
        super().__init__()
        self.prompt_learner = PromptLearner(cfg, classnames)
        self.image_encoder = nn.Sequential(nn.Flatten(), nn.Linear(192, 16))
        with torch.no_grad():  # the same in every run, as pretrained weights are
            self.image_encoder[1].weight.copy_(torch.arange(16 * 192).view(16, 192).sin() / 8)
            self.image_encoder[1].bias.zero_()

    def forward(self, image):
        return self.image_encoder(image) @ self.prompt_learner().t()


@TRAINER_REGISTRY.register()
class ToyPrompts(TrainerX):
    def check_cfg(self, cfg):
        assert cfg.TRAINER.TOYPROMPTS.PREC in ["fp16", "fp32", "amp"]

    def build_model(self):
        cfg = self.cfg
        classnames = self.dm.dataset.classnames
        self.model = CustomModel(cfg, classnames)
        for name, param in self.model.named_parameters():
            if "prompt_learner" not in name:
                param.requires_grad_(False)
        if cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(self.model.prompt_learner, cfg.MODEL.INIT_WEIGHTS)
        self.model.to(self.device)
        self.optim = build_optimizer(self.model.prompt_learner, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("prompt_learner", self.model.prompt_learner, self.optim, self.sched)
        amp = cfg.TRAINER.TOYPROMPTS.PREC == "amp"
        self.scaler = torch.cuda.amp.GradScaler() if amp else None
        if torch.cuda.device_count() > 1:
            self.model = nn.DataParallel(self.model)

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        if self.scaler is not None:
            with torch.autocast(self.device.type):
                loss = F.cross_entropy(self.model(image), label)
            self.optim.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optim)
            self.scaler.update()
            return {"loss": loss.item()}
        output = self.model(image)
        loss = F.cross_entropy(output, label)
        self.model_backward_and_update(loss)
        loss_summary = {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return loss_summary

    def parse_batch_train(self, batch):
        input = batch["img"].to(self.device)
        label = batch["label"].to(self.device)
        return input, label

    def load_model(self, directory, epoch=None):
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        names = self.get_model_names()
        model_file = "model-best.pth.tar"
        if epoch is not None:
            model_file = "model.pth.tar-" + str(epoch)
        for name in names:
            model_path = osp.join(directory, name, model_file)
            if not osp.exists(model_path):
                raise FileNotFoundError(f'Model not found at "{model_path}"')
            checkpoint = load_checkpoint(model_path)
            state_dict = checkpoint["state_dict"]
            if "token_prefix" in state_dict:
                del state_dict["token_prefix"]
            print(f"Loading weights to {name} from {model_path} (epoch = {checkpoint['epoch']})")
            self._models[name].load_state_dict(state_dict, strict=False)
