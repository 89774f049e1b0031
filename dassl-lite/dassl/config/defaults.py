"""Every config key with its default: Dassl 0.6.3's names and values, without its trainers' nodes.

A trainer's node (`TRAINER.COOP`, ...) is added by the program that uses it. Some keys belong to
parts of Dassl that are left out, and are kept only because config files name them: the head and
PRETRAINED of a backbone, COUNT_ITER, RETURN_IMG0, CUTOUT_N, CUTOUT_LEN, GN_MEAN, GN_STD, and those
under DATASET that only Dassl's data sets read.
"""

from yacs.config import CfgNode

# N_INS: images of each class in a batch, for RandomClassSampler
_TRAIN = {"SAMPLER": "RandomSampler", "BATCH_SIZE": 32, "N_DOMAIN": 0, "N_INS": 16}
_DEFAULTS = {
    "VERSION": 1,
    "OUTPUT_DIR": "./output",
    "RESUME": "",  # folder of the run to resume; if empty, OUTPUT_DIR
    "SEED": -1,  # negative: a different run each time
    "USE_CUDA": True,
    "VERBOSE": True,
    "INPUT": {
        "SIZE": (224, 224),
        "INTERPOLATION": "bilinear",
        "TRANSFORMS": (),  # names: dassl.data.transforms
        "NO_TRANSFORM": False,
        "PIXEL_MEAN": [0.485, 0.456, 0.406],
        "PIXEL_STD": [0.229, 0.224, 0.225],
        "CROP_PADDING": 4,
        "RRCROP_SCALE": (0.08, 1.0),
        "CUTOUT_N": 1,
        "CUTOUT_LEN": 16,
        "GN_MEAN": 0.0,
        "GN_STD": 0.15,
        "RANDAUGMENT_N": 2,
        "RANDAUGMENT_M": 10,
        "COLORJITTER_B": 0.4,
        "COLORJITTER_C": 0.4,
        "COLORJITTER_S": 0.4,
        "COLORJITTER_H": 0.1,
        "RGS_P": 0.2,
        "GB_P": 0.5,
        "GB_K": 21,
    },
    "DATASET": {
        "ROOT": "",
        "NAME": "",
        "SOURCE_DOMAINS": (),
        "TARGET_DOMAINS": (),
        "NUM_LABELED": -1,
        "NUM_SHOTS": -1,
        "VAL_PERCENT": 0.1,
        "STL10_FOLD": -1,
        "CIFAR_C_TYPE": "",
        "CIFAR_C_LEVEL": 1,
        "ALL_AS_UNLABELED": False,
    },
    "DATALOADER": {
        "NUM_WORKERS": 4,
        "K_TRANSFORMS": 1,  # augmented views of one training image
        "RETURN_IMG0": False,
        "CACHE_GIB": 1.0,  # for decoded training images in memory, over all workers
        "TRAIN_X": {**_TRAIN},
        "TRAIN_U": {"SAME_AS_X": True, **_TRAIN},
        "TEST": {"SAMPLER": "SequentialSampler", "BATCH_SIZE": 32},
    },
    "MODEL": {
        "INIT_WEIGHTS": "",
        "BACKBONE": {"NAME": "", "PRETRAINED": True},
        "HEAD": {"NAME": "", "HIDDEN_LAYERS": (), "ACTIVATION": "relu", "BN": True, "DROPOUT": 0.0},
    },
    "OPTIM": {
        "NAME": "adam",
        "LR": 0.0003,
        "WEIGHT_DECAY": 5e-4,
        "MOMENTUM": 0.9,
        "SGD_DAMPNING": 0,
        "SGD_NESTEROV": False,
        "RMSPROP_ALPHA": 0.99,
        "ADAM_BETA1": 0.9,
        "ADAM_BETA2": 0.999,
        "STAGED_LR": False,  # layers outside NEW_LAYERS learn at LR * BASE_LR_MULT
        "NEW_LAYERS": (),
        "BASE_LR_MULT": 0.1,
        "LR_SCHEDULER": "single_step",
        "STEPSIZE": (-1,),  # -1 or 0: MAX_EPOCH
        "GAMMA": 0.1,
        "MAX_EPOCH": 10,
        "WARMUP_EPOCH": -1,  # above 0: that many epochs of warm-up
        "WARMUP_TYPE": "linear",  # or constant
        "WARMUP_CONS_LR": 1e-5,
        "WARMUP_MIN_LR": 1e-5,
        "WARMUP_RECOUNT": True,  # the schedule after the warm-up counts from its own epoch 0
    },
    "TRAIN": {
        "CHECKPOINT_FREQ": 0,  # in epochs; 0: only the last one
        "PRINT_FREQ": 10,  # in batches
        "COUNT_ITER": "train_x",
    },
    "TEST": {
        "EVALUATOR": "Classification",
        "PER_CLASS_RESULT": False,
        "COMPUTE_CMAT": False,  # saved as OUTPUT_DIR/cmat.pt
        "NO_TEST": False,
        "SPLIT": "test",  # or val
        "FINAL_MODEL": "last_step",  # or best_val, which evaluates val after every epoch
    },
    "TRAINER": {"NAME": ""},
}


def get_cfg_default():
    """Return a new CfgNode with every default; it shares nothing with earlier ones."""
    return CfgNode(_DEFAULTS)
