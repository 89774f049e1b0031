"""ImageNet (ILSVRC 2012) and its shifted domains: V2, Sketch, A, R."""

from dassl.data.datasets import DATASET_REGISTRY

from trainers.prompting.images.class_folders import class_folders, read_classnames, some

from .base import Counts, ImageDataset
from .files import read_folders


@DATASET_REGISTRY.register()
class ImageNet(ImageDataset):
    """ImageNet; its official validation images are both the test and the validation images."""

    dataset_dir = "imagenet"
    layout = "images/train/, images/val/ and classnames.txt"
    expected = Counts(1_000, 1_281_167, None, 50_000)

    @classmethod
    def read(cls, folder):
        """Return training, validation and test images."""
        source = folder / "classnames.txt"
        classes = by_wnid(source)
        images = folder / cls.image_dir
        train, val = (read_folders(images / part, classes, source) for part in ("train", "val"))
        return train, val, val

    def few_shot(self, train, val, shots, seed, most):
        """Draw from the training images only: the validation images are the test images."""
        train, _ = super().few_shot(train, [], shots, seed, most)
        return train, val


class ShiftedImageNet(ImageDataset):
    """Test images of ImageNet's classes from another source.

    There are no training images. Dassl reads class names from training images, so `train_x` is the
    test set, for any number of shots.
    """

    only_tested = True

    @classmethod
    def read(cls, folder):
        """Return training, validation and test images."""
        source = folder / "classnames.txt"
        if not source.exists():
            source = folder.parent / ImageNet.dataset_dir / source.name
        images = folder / cls.image_dir
        test = read_folders(images, cls.classes(images, by_wnid(source)), source)
        return test, [], test

    @classmethod
    def classes(cls, images, names):
        """Return folder -> class name, in the order of the labels.

        `names` are ImageNet's.
        """
        return names


class PartOfImageNet(ShiftedImageNet):
    """A shifted domain with 200 of ImageNet's classes: those with an existing folder."""

    labels: frozenset[int] = frozenset()  # of the 200 classes among ImageNet's

    @classmethod
    def classes(cls, images, names):
        """Return the classes with an existing folder."""
        folders = class_folders(images)
        if len(names) == ImageNet.expected.classes:  # else the labels are not ImageNet's
            lacking = [
                x for label, x in enumerate(names) if label in cls.labels and x not in folders
            ]
            if lacking:
                print(
                    f"Note: '{images}' lacks {len(lacking):,} of its {len(cls.labels):,} class "
                    f"folders ({some(lacking)}): only the other classes are used"
                )
        return {folder: name for folder, name in names.items() if folder in folders}


def by_wnid(source):
    """Read folder -> class name, sorted by folder: the order of ImageNet's labels."""
    return dict(sorted(read_classnames(source).items()))


@DATASET_REGISTRY.register()
class ImageNetV2(ShiftedImageNet):
    """New test images, collected like those of ImageNet, with matched frequencies."""

    dataset_dir = "imagenetv2"
    image_dir = "imagenetv2-matched-frequency-format-val"
    layout = f"{image_dir}/"
    expected = Counts(1_000, None, None, 10_000)

    @classmethod
    def classes(cls, images, names):
        """Name the folders by their labels: sorted as text they would be 0, 1, 10, ..."""
        return {str(label): name for label, name in enumerate(names.values())}


@DATASET_REGISTRY.register()
class ImageNetSketch(ShiftedImageNet):
    """Black and white drawings of all of ImageNet's classes."""

    dataset_dir = "imagenet-sketch"
    layout = "images/"
    expected = Counts(1_000, None, None, 50_889)


# Labels of the classes of ImageNet-A in ImageNet.
LABELS_OF_A = """
6 11 13 15 17 22 23 27 30 37 39 42 47 50 57 70 71 76 79 89 90 94 96 97 99 105 107 108 110 113
124 125 130 132 143 144 150 151 207 234 235 254 277 283 287 291 295 298 301 306 307 308 309 310
311 313 314 315 317 319 323 324 326 327 330 334 335 336 347 361 363 372 378 386 397 400 401 402
404 407 411 416 417 420 425 428 430 437 438 445 456 457 461 462 470 472 483 486 488 492 496 514
516 528 530 539 542 543 549 552 557 561 562 569 572 573 575 579 589 606 607 609 614 626 627 640
641 642 643 658 668 677 682 684 687 701 704 719 736 746 749 752 758 763 765 768 773 774 776 779
780 786 792 797 802 803 804 813 815 820 823 831 833 835 839 845 847 850 859 862 870 879 880 888
890 897 900 907 913 924 932 933 934 937 943 945 947 951 954 956 957 959 971 972 980 981 984 986
987 988
"""


@DATASET_REGISTRY.register()
class ImageNetA(PartOfImageNet):
    """Photos of 200 classes that classifiers got wrong."""

    dataset_dir = "imagenet-adversarial"
    image_dir = "imagenet-a"
    layout = "imagenet-a/"
    expected = Counts(200, None, None, 7_500)
    labels = frozenset(map(int, LABELS_OF_A.split()))


# Labels of the classes of ImageNet-R in ImageNet.
LABELS_OF_R = """
1 2 4 6 8 9 11 13 22 23 26 29 31 39 47 63 71 76 79 84 90 94 96 97 99 100 105 107 113 122 125 130
132 144 145 147 148 150 151 155 160 161 162 163 171 172 178 187 195 199 203 207 208 219 231 232
234 235 242 245 247 250 251 254 259 260 263 265 267 269 276 277 281 288 289 291 292 293 296 299
301 308 309 310 311 314 315 319 323 327 330 334 335 337 338 340 341 344 347 353 355 361 362 365
366 367 368 372 388 390 393 397 401 407 413 414 425 428 430 435 437 441 447 448 457 462 463 469
470 471 472 476 483 487 515 546 555 558 570 579 583 587 593 594 596 609 613 617 621 629 637 657
658 701 717 724 763 768 774 776 779 780 787 805 812 815 820 824 833 847 852 866 875 883 889 895
907 928 931 932 933 934 936 937 943 945 947 948 949 951 953 954 957 963 965 967 980 981 983 988
"""


@DATASET_REGISTRY.register()
class ImageNetR(PartOfImageNet):
    """Renditions (art, cartoons, toys, ...) of 200 classes."""

    dataset_dir = "imagenet-rendition"
    image_dir = "imagenet-r"
    layout = "imagenet-r/"
    expected = Counts(200, None, None, 30_000)
    labels = frozenset(map(int, LABELS_OF_R.split()))
