"""A dtd.py as code for the original packages has it; not for imitation."""

import os

from dassl.data.datasets import DATASET_REGISTRY, Datum, DatasetBase
from dassl.utils import listdir_nohidden

from .oxford_pets import OxfordPets


@DATASET_REGISTRY.register()
class DescribableTextures(DatasetBase):

    dataset_dir = "dtd"

    def __init__(self, cfg):
        root = os.path.abspath(os.path.expanduser(cfg.DATASET.ROOT))
        self.dataset_dir = os.path.join(root, self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, "images")
        train, val, test = self.read_and_split_data(self.image_dir)
        train = self.generate_fewshot_dataset(train, num_shots=cfg.DATASET.NUM_SHOTS)
        subsample = cfg.DATASET.SUBSAMPLE_CLASSES
        train, val, test = OxfordPets.subsample_classes(train, val, test, subsample=subsample)
        super().__init__(train_x=train, val=val, test=test)

    @staticmethod
    def read_and_split_data(image_dir, p_trn=0.5, p_val=0.2):
        train, val, test = [], [], []
        for label, category in enumerate(sorted(listdir_nohidden(image_dir))):
            names = sorted(listdir_nohidden(os.path.join(image_dir, category)))
            n_train, n_val = round(len(names) * p_trn), round(len(names) * p_val)
            items = [
                Datum(
                    impath=os.path.join(image_dir, category, name), label=label, classname=category
                )
                for name in names
            ]
            train.extend(items[:n_train])
            val.extend(items[n_train : n_train + n_val])
            test.extend(items[n_train + n_val :])
        return train, val, test
