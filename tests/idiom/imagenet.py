"""An imagenet.py as code for the original packages has it; not for imitation."""

import os
from collections import OrderedDict

from dassl.data.datasets import DATASET_REGISTRY, Datum, DatasetBase
from dassl.utils import listdir_nohidden


@DATASET_REGISTRY.register()
class ImageNet(DatasetBase):

    dataset_dir = "imagenet"

    def __init__(self, cfg):
        root = os.path.abspath(os.path.expanduser(cfg.DATASET.ROOT))
        self.dataset_dir = os.path.join(root, self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, "images")
        classnames = self.read_classnames(os.path.join(self.dataset_dir, "classnames.txt"))
        train = self.read_data(classnames, "train")
        test = self.read_data(classnames, "val")
        super().__init__(train_x=train, val=test, test=test)

    @staticmethod
    def read_classnames(text_file):
        classnames = OrderedDict()
        with open(text_file, "r") as f:
            for line in f.readlines():
                folder, *words = line.strip().split(" ")
                classnames[folder] = " ".join(words)
        return classnames

    def read_data(self, classnames, split_dir):
        split_dir = os.path.join(self.image_dir, split_dir)
        items = []
        for label, folder in enumerate(sorted(os.listdir(split_dir))):
            for imname in listdir_nohidden(os.path.join(split_dir, folder)):
                impath = os.path.join(split_dir, folder, imname)
                items.append(Datum(impath=impath, label=label, classname=classnames[folder]))
        return items
