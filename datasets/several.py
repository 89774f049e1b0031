"""The base of data sets whose images have several labels (`tags`).

Letters: n images, K classes.
"""

import numpy as np

from trainers.prompting.checkpoint.keys import KEYS
from trainers.prompting.errors import UserError, need
from trainers.prompting.images.class_folders import some

from . import contents
from .base import ImageDataset
from .noise import generator
from .tags import ABSENT, PRESENT, UNKNOWN, draw, relabel, table, with_labels
from .validation import most_validation

HALVES = ("all", "base", "new", "both")


class SeveralLabels(ImageDataset):
    """Base of data sets with several labels an image; their lists are of `Tagged`.

    With DATASET.SUBSAMPLE_CLASSES base or new, training images have no class of the other half, and
    test images have one of their own; with `both`, test images have one of either half, and the
    classes are those of both. With DATASET.KNOWN, that share of the labels of training images is
    known, drawn from the seed. DATASET.NUM_SHOTS is the number of images that have a class.
    """

    several = True
    unseen: tuple[str, ...] | None = None  # the new classes; None for the second half of the names
    seen: tuple[str, ...] | None = None  # the base classes; None for those that are not new

    @classmethod
    def check_labels(cls, train, val, test):
        """Refuse labels that are none, and classes of which training images show nothing."""
        of = cls.__name__
        need(train and test, f"{of} lacks training or test images: check DATASET.ROOT")
        names, valid = train[0].names, {PRESENT, ABSENT, UNKNOWN}
        for item in (*train, *val, *test):
            whole = item.names == names and len(item.label) == len(names)
            if not (whole and valid.issuperset(item.label)):
                raise UserError(
                    f"{of}: '{item.impath}' has the label {item.label!r:.60}, but needs 1 (present)"
                    f", 0 (absent) or -1 (unknown) for each class of '{train[0].impath}': correct "
                    "it"
                )
        labels = table(train)
        for name, column in zip(names, labels.T, strict=True):
            values = {*column.tolist()} - {UNKNOWN}
            where = {(PRESENT,): "in all", (ABSENT,): "in none"}.get((*values,), "unknown in all")
            need(
                len(values) == 2,
                f"{of}: the class '{name}' is {where} of the training images, so that nothing can "
                "be learned of it: leave it out, or add images",
            )

    @staticmethod
    def names_of(items):
        """Return the names of the classes of images, by label."""
        return [*items[0].names]

    def note_classes(self, train, test):
        """Print a note about classes that no test image has, and about images with no label."""
        name = type(self).__name__
        tested, names = table(test), train[0].names
        if left := [names[k] for k in np.flatnonzero(~(tested == PRESENT).any(0))]:
            print(f"Note: {name} has no test images of these classes: {some(left)}")
        for part, labels in {"training": table(train), "test": tested}.items():
            if bare := int((labels != PRESENT).all(1).sum()):
                print(f"Note: {bare:,} {part} images of {name} have no class, and are kept")
        self.note_counts(len(names), test)

    @staticmethod
    def get_num_classes(data_source):
        """Return K."""
        return len(data_source[0].names)

    @staticmethod
    def get_lab2cname(data_source):
        """Return a mapping from the number of a class to its name, and the names in order."""
        names = SeveralLabels.names_of(data_source)
        return dict(enumerate(names)), names

    def choose(self, cfg, train, val, test):
        """Take the images of the run: of its classes, with its shots or known labels."""
        node, seed = cfg.DATASET, cfg.SEED
        whole, subset, shots = train, node.SUBSAMPLE_CLASSES, node.NUM_SHOTS
        need(subset in HALVES, f"SUBSAMPLE_CLASSES is {', '.join(HALVES)}, not '{subset}'")
        train, val, test = self.of_classes(train, val, test, subset)
        share = getattr(node, "KNOWN", KEYS["DATASET.KNOWN"].default)
        train = train if share == 1 else self.hide(train, share, seed)
        most = most_validation(node)
        chosen = draw(train, shots, generator("shots", seed)) if shots >= 1 else train
        if getattr(node, "VALIDATION_SHOTS", 0) and not val:
            taken = {item.impath for item in chosen} if shots >= 1 else ()
            free = [item for item in train if item.impath not in taken]
            val = draw(free, most, generator("held out", seed))
            held = {item.impath for item in val}
            chosen = [item for item in chosen if item.impath not in held]
            need(
                chosen and (table(chosen) == PRESENT).any(0).all(),
                "DATASET.VALIDATION_SHOTS draws validation images from training images, of which "
                "it leaves none of a class: take fewer, or set it to 0",
            )
        elif shots >= 1 and val:
            val = draw(val, most, generator("validation", seed))
        if shots >= 1:
            counts = (table(chosen) == PRESENT).sum(0)
            each = f"{counts.min()} to {counts.max()}"
            print(f"Training: {len(chosen):,} images, with {each} of a class")
        contents.note_groups(type(self).__name__, chosen, test)
        super(ImageDataset, self).__init__(train_x=chosen, train_u=whole, val=val, test=test)
        self.other_classnames, self.validation = [], val

    def of_classes(self, train, val, test, subset):
        """Return the three lists with the classes of a subset."""
        if subset == "all":
            return train, val, test
        names = train[0].names
        new = self.unseen or names[(len(names) + 1) // 2 :]
        base = self.seen or [name for name in names if name not in new]
        either = [name for name in names if name in base or name in new]
        own = {"base": base, "new": new, "both": either}[subset]
        columns = [names.index(name) for name in own]
        others = [names.index(name) for name in either if name not in own]

        def has(item, columns):
            return any(item.label[k] == PRESENT for k in columns)

        def cut(item):
            return relabel(item, tuple(item.label[k] for k in columns), tuple(own))

        learned = [[cut(x) for x in items if not has(x, others)] for items in (train, val)]
        return *learned, [cut(item) for item in test if has(item, columns)]

    def hide(self, train, share, seed):
        """Return training images with a share of their labels known, drawn from the seed."""
        labels = table(train)
        chance = np.random.default_rng([ord(x) for x in f"known {seed}"] if seed >= 0 else None)
        labels[chance.random(labels.shape) >= share] = UNKNOWN
        source = f"drawn here (seed {seed}) and in no publication"
        note_known(type(self).__name__, labels, source)
        return with_labels(train, labels)


def note_known(dataset, labels, source):
    """Print which share of labels (n, K) is known, and the number of images without any."""
    known = labels != UNKNOWN
    print(
        f"{dataset}: {100 * known.mean():.1f}% of the labels of training images are known, "
        f"{source}; {int((~known).all(1).sum()):,} images have none"
    )
