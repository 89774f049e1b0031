"""Every key of a config but those of methods' nodes: its default, role, and what it must be.

It is the only list: whoever adds a key adds a line. `identity` says what roles mean. Needs neither
PyTorch nor yacs.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Key(NamedTuple):
    """A key: its default, its role, and what a value must be, in words and as a test."""

    default: object
    role: str
    wanted: str = ""
    holds: Callable[[Any], bool] = lambda value: True
    read_by: str = "methods"  # of this project alone; or `all`, or `here`: its data sets


Range = tuple[str, Callable[[Any], bool]]


def _words(*valid: str) -> Range:
    return f"one of {', '.join(filter(None, valid))}", lambda word: word in valid


def _count(least: int) -> Range:
    return f"a whole number, {least} or more", lambda n: n >= least


def _of_dassl(role: str, node: str = "", **keys: object) -> dict[str, Key]:
    return {f"{node}{key}": Key(value, role, read_by="all") for key, value in keys.items()}


POSITIVE: Range = "a finite number above 0", lambda x: 0 < x < math.inf
EPS: Range = "above 0, up to 255", lambda eps: 0 < eps <= 255  # the most that a pixel changes
SAMPLED = {"SAMPLER": "RandomSampler", "BATCH_SIZE": 32, "N_DOMAIN": 0, "N_INS": 16}

KEYS = {
    # Of Dassl 0.6.3 and CoOp, with their defaults.
    **_of_dassl("place", OUTPUT_DIR="./output", RESUME="", VERSION=1, VERBOSE=True),
    **_of_dassl("machine", USE_CUDA=True),
    **_of_dassl("training", SEED=-1),
    **_of_dassl(  # the CLIP decides: `data` has the images as read
        "place", "INPUT.", SIZE=(224, 224), INTERPOLATION="bilinear",
        PIXEL_MEAN=[0.485, 0.456, 0.406], PIXEL_STD=[0.229, 0.224, 0.225],
    ),
    **_of_dassl(
        "training", "INPUT.", TRANSFORMS=(), NO_TRANSFORM=False, CROP_PADDING=4,
        RRCROP_SCALE=(0.08, 1.0), CUTOUT_N=1, CUTOUT_LEN=16, GN_MEAN=0.0, GN_STD=0.15,
        RANDAUGMENT_N=2, RANDAUGMENT_M=10, COLORJITTER_B=0.4, COLORJITTER_C=0.4,
        COLORJITTER_S=0.4, COLORJITTER_H=0.1, RGS_P=0.2, GB_P=0.5, GB_K=21,
    ),
    **_of_dassl("data", "DATASET.", ROOT="", NAME="", SUBSAMPLE_CLASSES="all"),
    **_of_dassl(
        "training", "DATASET.", SOURCE_DOMAINS=(), TARGET_DOMAINS=(), NUM_LABELED=-1, NUM_SHOTS=-1,
        VAL_PERCENT=0.1, STL10_FOLD=-1, CIFAR_C_TYPE="", CIFAR_C_LEVEL=1, ALL_AS_UNLABELED=False,
    ),
    **_of_dassl("machine", "DATALOADER.", NUM_WORKERS=4, CACHE_GIB=1.0),
    **_of_dassl("training", "DATALOADER.", K_TRANSFORMS=1, RETURN_IMG0=False),
    **_of_dassl("training", "DATALOADER.TRAIN_X.", **SAMPLED),
    **_of_dassl("machine", "DATALOADER.TRAIN_U.", SAME_AS_X=True, **SAMPLED),
    **_of_dassl("machine", "DATALOADER.TEST.", SAMPLER="SequentialSampler", BATCH_SIZE=32),
    **_of_dassl("training", "MODEL.", INIT_WEIGHTS=""),
    **_of_dassl("place", "MODEL.BACKBONE.", NAME="", PRETRAINED=True),  # `clip` has its name
    **_of_dassl(
        "training", "MODEL.HEAD.", NAME="", HIDDEN_LAYERS=(), ACTIVATION="relu", BN=True,
        DROPOUT=0.0,
    ),
    **_of_dassl(
        "training", "OPTIM.", NAME="adam", LR=0.0003, WEIGHT_DECAY=5e-4, MOMENTUM=0.9,
        SGD_DAMPNING=0, SGD_NESTEROV=False, RMSPROP_ALPHA=0.99, ADAM_BETA1=0.9, ADAM_BETA2=0.999,
        STAGED_LR=False, NEW_LAYERS=(), BASE_LR_MULT=0.1, LR_SCHEDULER="single_step",
        STEPSIZE=(-1,), GAMMA=0.1, WARMUP_EPOCH=-1, WARMUP_TYPE="linear",
        WARMUP_CONS_LR=1e-5, WARMUP_MIN_LR=1e-5, WARMUP_RECOUNT=True,
    ),
    **_of_dassl("place", "TRAIN.", CHECKPOINT_FREQ=0, PRINT_FREQ=10),
    **_of_dassl("training", "TRAIN.", COUNT_ITER="train_x"),
    **_of_dassl("place", "TEST.", PER_CLASS_RESULT=False, COMPUTE_CMAT=False, NO_TEST=False),
    **_of_dassl("test", "TEST.", EVALUATOR="Classification"),
    **_of_dassl("place", "TRAINER.", NAME=""),  # `method` has it
    "OPTIM.MAX_EPOCH": Key(10, "training", *_count(1), read_by="all"),
    "TEST.SPLIT": Key("test", "test", *_words("test", "val"), read_by="all"),
    "TEST.FINAL_MODEL": Key(  # or validation after each epoch
        "last_step", "training", *_words("last_step", "best_val"), read_by="all"
    ),
    # Of this project.
    "INPUT.RESIZE": Key("shortest", "place"),  # as `Family.resize`
    "INPUT.INTERPOLATE": Key(False, "data"),  # read INPUT.SIZE by interpolated positions
    "INPUT.UPRIGHT": Key(False, "data", read_by="all"),  # turn images as their EXIF data say
    "DATASET.FEATURES": Key("", "data", read_by="here"),  # a file of them, in place of images
    "DATASET.METHODS": Key([], "place", read_by="here"),  # those that a launcher runs
    "DATASET.CLASSES_AT": Key(  # docs/advise.md
        0, "data", "0, 1 or 2", lambda n: n in (0, 1, 2), read_by="all"
    ),
    "DATASET.VALIDATION_SHOTS": Key(  # of a class; 0: as CoOp
        0,
        "training",
        "0 or more, or -1, for as many validation images of each class as shots",
        lambda n: n >= -1,
        read_by="all",
    ),
    "DATASET.KNOWN": Key(  # of the labels, where an image has several
        1.0, "training", "a share above 0, up to 1", lambda share: 0 < share <= 1, read_by="here"
    ),
    "DATASET.LABEL_NOISE": Key(0.0, "training", read_by="here"),
    "DATASET.LABEL_NOISE_KIND": Key("symmetric", "training", read_by="here"),
    "DATASET.IMBALANCE": Key(1.0, "training", read_by="here"),
    "DATASET.SENTENCES": Key("", "data"),  # about the classes, which an evaluation may have others
    "DATASET.SENTENCES_RULE": Key("", "data"),
    "DATALOADER.TRAIN_X.DROP_LAST": Key(True, "training"),  # the last batch, if it is short
    "OPTIM.ADAM_EPS": Key(
        1e-8, "training", "at least 0 and less than 1", lambda eps: 0 <= eps < 1
    ),
    "OPTIM.STEPS": Key(0, "training", *_count(0)),  # above 0: replaces MAX_EPOCH, with LR_BY_STEP
    "OPTIM.LR_BY_STEP": Key(False, "training"),  # the learning rate changes after every step
    "OPTIM.LR_MIN": Key(0.0, "training"),  # where the cosine ends
    "OPTIM.CLIP_NORM": Key(  # of gradients, at most; 0: as they are
        0.0, "training", "0 or a finite number above 0", lambda norm: 0 <= norm < math.inf
    ),
    "OPTIM.COSINE_STEPS": Key(0, "training", *_count(0)),  # above 0: the cosine's; then it rises
    "TRAIN.ATTACK": Key("", "training", *_words("", "pgd")),  # learn from attacked images alone
    "TRAIN.ATTACK_EPS": Key(4.0, "training", *EPS),
    "TRAIN.ATTACK_ALPHA": Key(0.667, "training", *POSITIVE),
    "TRAIN.ATTACK_STEPS": Key(3, "training", *_count(1)),
    "TRAIN.ATTACK_TEXT": Key("onfly", "training", *_words("onfly", "constant", "perturbed")),
    "TRAIN.ATTACK_TEXT_STEP": Key(0.0, "training"),  # of what is learned, if it is perturbed
    "TEST.PREDICTIONS": Key(True, "place"),  # keep the prediction of each test image
    "TEST.RECORD": Key(False, "place", read_by="all"),  # write results.json, as train.py here
    "TEST.WISE": Key(  # the share of the trained weights, the others CLIP's
        1.0, "test", "from 0, CLIP, to 1, as trained", lambda share: 0 <= share <= 1
    ),
    "TEST.OOD": Key([], "test"),  # data sets of other classes, for detection
    "TEST.ATTACK": Key("", "test", *_words("", "pgd", "cw", "transfer-pgd", "transfer-cw")),
    "TEST.ATTACK_EPS": Key(1.0, "test", *EPS),
    "TEST.ATTACK_ALPHA": Key(0.25, "test", *POSITIVE),  # the size of a step, as a share of it
    "TEST.ATTACK_STEPS": Key(100, "test", *_count(1)),
    "TEST.ATTACK_START": Key("random", "test", *_words("random", "image")),
    "TEST.ATTACK_IMAGES": Key(0, "test", *_count(0)),  # how many, drawn by the seed; 0: all
    "TEST.STREAM": Key("shuffled", "test"),  # the order of test images
    "TRAINER.MEMORY_BUDGET": Key(0.0, "machine"),  # GiB for a step's activations; 0: automatic
    "TRAINER.DETERMINISTIC": Key(False, "machine"),  # the same bits on a GPU, too, but slower
    "TRAINER.PLUGINS": Key([], "place", read_by="all"),  # modules or files with methods
    "TRAINER.UNREAD": Key([], "place", read_by="all"),  # keys of config files for other nodes
    "TRAINER.PER_DATASET": Key([], "place", read_by="all"),  # keys that a config sets by them
}  # fmt: skip
ABOUT = [place for place in KEYS if place.startswith("DATASET.SENTENCES")]  # the classes


class Node(dict[str, Any]):
    """A node of a config, whose keys are attributes, too."""

    def __getattr__(self, key: str) -> Any:
        return self[key]


def nested(values: dict[str, Any]) -> Node:
    """Return a config, given its values by dotted key."""
    cfg = Node()
    for place, value in values.items():
        *above, key = place.split(".")
        node = cfg
        for part in above:
            node = node.setdefault(part, Node())
        node[key] = value
    return cfg


def role_of(place: str) -> str:
    """Return the role of a dotted key; that of a node of a method is `settings`."""
    if key := KEYS.get(place):
        return key.role
    return "settings" if place.startswith("TRAINER.") and place.count(".") > 1 else "training"
