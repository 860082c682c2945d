"""A dataset of class folders as code for the original packages is written; not for imitation."""

import os

from dassl.data.datasets import DATASET_REGISTRY, Datum, DatasetBase
from dassl.utils import listdir_nohidden


@DATASET_REGISTRY.register()
class Shapes(DatasetBase):

    dataset_dir = "shapes"

    def __init__(self, cfg):
        root = os.path.abspath(os.path.expanduser(cfg.DATASET.ROOT))
        self.dataset_dir = os.path.join(root, self.dataset_dir)
        train = self.read_data("train")
        test = self.read_data("test")
        train = self.generate_fewshot_dataset(train, num_shots=cfg.DATASET.NUM_SHOTS)
        super().__init__(train_x=train, val=test, test=test)

    def read_data(self, split_dir):
        split_dir = os.path.join(self.dataset_dir, split_dir)
        items = []
        for label, folder in enumerate(sorted(listdir_nohidden(split_dir))):
            for imname in sorted(listdir_nohidden(os.path.join(split_dir, folder))):
                impath = os.path.join(split_dir, folder, imname)
                items.append(Datum(impath=impath, label=label, classname=folder))
        return items
