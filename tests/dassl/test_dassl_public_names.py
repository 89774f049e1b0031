"""dassl-lite has every name of Dassl that public code of prompt learning imports or inherits.

The names come from 27 repositories: CoOp, KgCoOp, MaPLe, PromptSRC, ProText, TCP, ProGrad, PLOT,
RPO, DePT, SkipTuning, ATPrompt, PromptKD, MMA, MMRL, CLAP, TAP, HPT, ProMetaR, CoPrompt, DPC, DeKg,
TaskRes, TextRefiner, GraphAdapter, KDPL, UPL. Other names need not be in dassl-lite.

SkipTuning's copy of ProGrad also imports domain samplers and `dassl.modeling`: they are left out.
"""

import importlib

import pytest
from dassl.data.datasets import DatasetBase, Datum
from dassl.engine import build_trainer

IMPORTED = {
    "dassl.config": "clean_cfg get_cfg_default",
    "dassl.data": "DataManager DatasetWrapper",
    "dassl.data.data_manager": "DatasetWrapper build_data_loader build_transform",
    "dassl.data.datasets": "DATASET_REGISTRY DatasetBase Datum",
    "dassl.data.samplers": "RandomClassSampler RandomSampler SequentialSampler build_sampler",
    "dassl.data.transforms": "build_transform",
    "dassl.data.transforms.transforms": "build_transform",
    "dassl.engine": "SimpleTrainer TRAINER_REGISTRY TrainerX build_trainer",
    "dassl.engine.trainer": "AverageMeter MetricMeter SummaryWriter TrainerX",
    "dassl.evaluation": "build_evaluator",
    "dassl.evaluation.build": "EVALUATOR_REGISTRY",
    "dassl.evaluation.evaluator": "Classification",
    "dassl.metrics": "compute_accuracy",
    "dassl.optim": "build_lr_scheduler build_optimizer",
    "dassl.optim.lr_scheduler": "ConstantWarmupScheduler LinearWarmupScheduler",
    "dassl.optim.radam": "RAdam",
    "dassl.utils": "AverageMeter MetricMeter check_isfile collect_env_info count_num_param"
    " listdir_nohidden load_checkpoint load_pretrained_weights mkdir_if_missing read_image"
    " read_json resume_from_checkpoint save_checkpoint set_random_seed setup_logger tolist_if_not"
    " write_json",
    "dassl.utils.tools": "mkdir_if_missing",
}
TRAINER = """
_models _optims _scheds _writer after_epoch after_train batch_idx before_epoch before_train
best_result build_data_loader build_model cfg check_cfg close_writer detect_anomaly device dm
epoch evaluator forward_backward get_current_lr get_model_names init_writer lab2cname load_model
max_epoch model model_backward model_backward_and_update model_inference model_update
model_zero_grad num_batches num_classes num_source_domains optim output_dir parse_batch_test
parse_batch_train register_model resume_model_if_exist run_epoch save_model sched set_model_mode
start_epoch test test_loader time_start train train_loader_u train_loader_x update_lr val_loader
write_scalar
"""
MANAGER = """
dataset lab2cname num_classes num_source_domains test_loader train_loader_u train_loader_x
val_loader
"""
DATASET = """
_lab2cname classnames dataset_dir domains generate_fewshot_dataset get_lab2cname get_num_classes
lab2cname num_classes split_dataset_by_label test train_u train_x val
"""
WRAPPER = "cfg data_source is_train k_tfm transform"
# Every key of Dassl 0.6.3 that config files or code of these repositories use.
KEYS = """
DATALOADER.K_TRANSFORMS DATALOADER.NUM_WORKERS DATALOADER.TEST.BATCH_SIZE DATALOADER.TEST.SAMPLER
DATALOADER.TRAIN_X.BATCH_SIZE DATALOADER.TRAIN_X.N_DOMAIN DATALOADER.TRAIN_X.N_INS
DATALOADER.TRAIN_X.SAMPLER DATASET.NAME DATASET.NUM_SHOTS DATASET.ROOT DATASET.SOURCE_DOMAINS
DATASET.TARGET_DOMAINS INPUT.INTERPOLATION INPUT.PIXEL_MEAN INPUT.PIXEL_STD INPUT.RRCROP_SCALE
INPUT.SIZE INPUT.TRANSFORMS MODEL.BACKBONE.NAME MODEL.BACKBONE.PRETRAINED MODEL.HEAD.NAME
MODEL.INIT_WEIGHTS OPTIM.ADAM_BETA1 OPTIM.ADAM_BETA2 OPTIM.BASE_LR_MULT OPTIM.LR
OPTIM.LR_SCHEDULER OPTIM.MAX_EPOCH OPTIM.MOMENTUM OPTIM.NAME OPTIM.NEW_LAYERS OPTIM.STAGED_LR
OPTIM.WARMUP_CONS_LR OPTIM.WARMUP_EPOCH OPTIM.WARMUP_MIN_LR OPTIM.WARMUP_TYPE OPTIM.WEIGHT_DECAY
OUTPUT_DIR RESUME SEED TEST.COMPUTE_CMAT TEST.FINAL_MODEL TEST.NO_TEST TEST.PER_CLASS_RESULT
TEST.SPLIT TRAIN.CHECKPOINT_FREQ TRAIN.COUNT_ITER TRAIN.PRINT_FREQ TRAINER.NAME USE_CUDA VERBOSE
"""


@pytest.mark.parametrize("module", IMPORTED)
def test_public_code_imports_what_exists(module):
    found = importlib.import_module(module)
    assert not [name for name in IMPORTED[module].split() if not hasattr(found, name)]


def missing(owner, names):
    return [name for name in names.split() if not hasattr(owner, name)]


def test_public_code_inherits_what_exists(make_cfg):
    trainer = build_trainer(make_cfg("OPTIM.MAX_EPOCH", 1))
    trainer.train()
    assert not missing(trainer, TRAINER)
    assert not missing(trainer.dm, MANAGER)
    assert not missing(trainer.dm.dataset, DATASET)
    assert not missing(trainer.train_loader_x.dataset, WRAPPER)
    meter = importlib.import_module("dassl.utils").AverageMeter()
    assert not missing(meter, "avg count reset sum update val")


def test_public_code_sets_what_exists(make_cfg):
    cfg = make_cfg()
    for key in KEYS.split():
        node = cfg
        for part in key.split("."):
            node = node[part]


def test_few_shot_picks_in_pickles_of_public_data_sets_are_read():
    """Such files hold the private attributes of the original's Datum."""
    datum = Datum.__new__(Datum)
    datum.__dict__.update(_impath="a.png", _label=3, _domain=-1, _classname="cat")
    assert (datum.impath, datum.label, datum.domain, datum.classname) == ("a.png", 3, -1, "cat")
    assert DatasetBase([datum], test=[datum]).lab2cname == {3: "cat"}
