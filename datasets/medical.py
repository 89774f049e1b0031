"""BiomedCoOp's eleven data sets (CVPR 2025): class folders, and split files in CoOp's format."""

from dassl.data.datasets import DATASET_REGISTRY

from .base import Counts, FolderDataset

# what the images show; classes, training, validation and test images of the public split files
MEDICAL = {
    "BTMRI": ("MRI of brain tumours", Counts(4, 2_854, 1_141, 1_717)),
    "BUSI": ("Ultrasound of breasts", Counts(3, 389, 155, 236)),
    "CHMNIST": ("Histology of colons", Counts(8, 2_496, 1_000, 1_504)),
    "COVID_19": ("X-rays of chests", Counts(4, 10_582, 4_232, 6_351)),
    "CTKidney": ("CT of kidneys", Counts(4, 6_221, 2_487, 3_738)),
    "DermaMNIST": ("Dermatoscopy of skin", Counts(7, 7_006, 1_003, 2_005)),
    "KneeXray": ("X-rays of knees", Counts(5, 5_778, 826, 1_656)),
    "Kvasir": ("Endoscopy of colons", Counts(8, 2_000, 800, 1_200)),
    "LungColon": ("Histology of lungs and colons", Counts(5, 12_500, 5_000, 7_500)),
    "OCTMNIST": ("OCT of retinas", Counts(4, 97_477, 10_832, 1_000)),
    "RETINA": ("Photos of retinas", Counts(4, 2_108, 841, 1_268)),
}
for name, (what, counts) in MEDICAL.items():
    own: dict = {"dataset_dir": name, "image_dir": name, "split_file": f"split_{name}.json"}
    own |= {"expected": counts, "__doc__": f"{what}.", "__module__": __name__}
    DATASET_REGISTRY.register()(type(name, (FolderDataset,), own))
