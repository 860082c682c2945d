"""Every real dataset: its sources in the order of their use, about how large it is, its licence."""

from dataclasses import dataclass, field

from .sources import Files, HubRepository, RemoteFile, Source, Torchvision

# The fourteen sets of CoOp's page (all but ImageNet) with their split files.
MIRROR = HubRepository("zhengli97/prompt_learning_dataset")
DMN = "https://raw.githubusercontent.com/YBZh/DMN/c6c218c70ebbc701b31cc3d7f7b9597117daad8e/data"
DOMAINBED = (
    "https://raw.githubusercontent.com/facebookresearch/DomainBed/"
    "b93c22a1cfc3b2428398272c1a116c8de1f4139e/domainbed"
)
LILA = (
    "https://storage.googleapis.com/public-datasets-lila/caltechcameratraps",
    "https://lilablobssc.blob.core.windows.net/caltechcameratraps",
)
VISDA = "https://csr.bu.edu/ftp/visda/2019/multi-source"
IMAGENET_TERMS = (
    "imagenet is not downloaded: image-net.org gives it, for non-commercial research and "
    "education alone, to those who register and accept its terms. Register there (ILSVRC 2012), "
    "or accept the same terms at ILSVRC/imagenet-1k on the Hugging Face hub or in Kaggle's "
    "competition; then arrange it as DATASETS.md, section ImageNet, shows."
)


@dataclass(frozen=True)
class Recipe:
    """How to get one dataset.

    Attributes:
        gigabytes: of the download, about; the unpacked images are about as large.
        licence: what its authors state; to be checked before use.
        sources: tried in this order.
        other_names: what a source calls a folder -> its name in the tree of DATASETS.md.
        note: what the download lacks.
    """

    gigabytes: float
    licence: str
    sources: tuple[Source, ...]
    other_names: dict[str, str] = field(default_factory=dict)
    note: str = ""


def _web(title: str, name: str, gigabytes: float, *addresses: str) -> Files:
    return Files(title, (RemoteFile(name, addresses, gigabytes),))


# class -> file on Google Drive (CoOp's page), SHA-256 of the copy in DMN's repository
_SPLIT_FILES = {
    "Caltech101": (
        "1hyarUivQE36mY6jSomru6Fjd-JzwcCzN",
        "52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5",
    ),
    "DescribableTextures": (
        "1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x",
        "f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38",
    ),
    "EuroSAT": (
        "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o",
        "541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2",
    ),
    "Food101": ("1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl", ""),
    "OxfordFlowers": (
        "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT",
        "2f50c42fc1a17ca13c271cb4269b1347bdb43d2be672e34f74a4e4cbfbcca794",
    ),
    "OxfordPets": (
        "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs",
        "d7f3ffe65b3919f95132e51422894ae18686b83c331fd8c0adcdc3dc2de6301e",
    ),
    "StanfordCars": (
        "1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT",
        "40acee7aa65c8e4727a32d90e884b7c3f8960b523422317e163f7af65432959d",
    ),
    "SUN397": ("1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq", ""),
    "UCF101": (
        "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y",
        "d78cb834f7c5792ceaff2c5ee2d7c76a9e4086e48a3a6b01232989d29cbefdd8",
    ),
}


def split_file(class_name: str) -> RemoteFile | None:
    """The published split file of a dataset class, if it has one."""
    if class_name not in _SPLIT_FILES:
        return None
    file_id, sha256 = _SPLIT_FILES[class_name]
    name = f"split_zhou_{class_name}.json"
    addresses = (f"{DMN}/data_splits/{name}", f"drive:{file_id}")
    return RemoteFile(name, addresses, 0.01, sha256)


def _camera_traps(annotations: str) -> Files:
    """Images and annotations of Caltech Camera Traps, each at both of LILA's hosts."""
    names = ("eccv_18_all_images_sm.tar.gz", annotations)
    files = tuple(
        RemoteFile(name.split("/")[-1], tuple(f"{host}/{name}" for host in LILA), gigabytes)
        for name, gigabytes in zip(names, (6, 0.1))
    )
    return Files(f"lila.science, {annotations}", files)


_DOMAIN_NET = (
    ("groundtruth/clipart", 1.3),
    ("infograph", 4),
    ("groundtruth/painting", 3.5),
    ("quickdraw", 0.5),
    ("real", 6),
    ("sketch", 2.7),
)
_DUPLICATES = RemoteFile(
    "domain_net_duplicates.txt",
    (f"{DOMAINBED}/misc/domain_net_duplicates.txt",),
    0.001,
    "a52b4ab70203f4f3df381077694dba3e33ff44c26407e1c5faca76919c702770",
)
_PETS = Torchvision("OxfordIIITPet", (("split", "trainval"),))
_HUB_FILES = "https://huggingface.co/datasets"
_HENDRYCKS = "https://people.eecs.berkeley.edu/~hendrycks"

RECIPES = {
    "caltech101": Recipe(0.14, "CC BY 4.0", (Torchvision("Caltech101"), MIRROR)),
    "oxford_pets": Recipe(0.8, "CC BY-SA 4.0", (_PETS, MIRROR)),
    "stanford_cars": Recipe(1.9, "research, non-commercial", (MIRROR,)),
    "oxford_flowers": Recipe(
        0.35,
        "none stated",
        (Torchvision("Flowers102"), MIRROR),
        note="cat_to_name.json is written from torchvision's class names.",
    ),
    "food101": Recipe(5, "none stated (images of Foodspotting)", (Torchvision("Food101"), MIRROR)),
    "fgvc_aircraft": Recipe(2.8, "research, non-commercial", (Torchvision("FGVCAircraft"), MIRROR)),
    "sun397": Recipe(
        37,
        "none stated",
        (Torchvision("SUN397"), MIRROR),
        note="Rebuilding the split also needs Training_01.txt and Testing_01.txt (Partitions.zip "
        "of the SUN project) in sun397/.",
    ),
    "dtd": Recipe(0.6, "research", (Torchvision("DTD"), MIRROR)),
    "eurosat": Recipe(0.09, "MIT", (Torchvision("EuroSAT"), MIRROR)),
    "ucf101": Recipe(
        0.2,
        "none stated",
        (
            MIRROR,
            _web(
                "CoOp's folder on Google Drive",
                "UCF-101-midframes.zip",
                0.2,
                "drive:10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O",
            ),
        ),
    ),
    "imagenetv2": Recipe(
        1.3,
        "MIT (images: their authors')",
        (
            _web(
                "the authors' repository on the Hugging Face hub",
                "imagenetv2-matched-frequency.tar.gz",
                1.3,
                f"{_HUB_FILES}/vaishaal/ImageNetV2/resolve/main/imagenetv2-matched-frequency.tar.gz",
            ),
            MIRROR,
        ),
    ),
    "imagenet_sketch": Recipe(
        7,
        "MIT (images: their authors')",
        (
            _web(
                "songweig/imagenet_sketch on the Hugging Face hub",
                "ImageNet-Sketch.zip",
                7,
                f"{_HUB_FILES}/songweig/imagenet_sketch/resolve/main/data/ImageNet-Sketch.zip",
            ),
            MIRROR,
        ),
        other_names={"sketch": "images"},
    ),
    "imagenet_a": Recipe(
        0.7,
        "MIT (images: their authors')",
        (
            _web("the authors' page", "imagenet-a.tar", 0.7, f"{_HENDRYCKS}/imagenet-a.tar"),
            MIRROR,
        ),
    ),
    "imagenet_r": Recipe(
        2.2,
        "MIT (images: their authors')",
        (
            _web("the authors' page", "imagenet-r.tar", 2.2, f"{_HENDRYCKS}/imagenet-r.tar"),
            MIRROR,
        ),
    ),
    "pacs": Recipe(
        0.2,
        "none stated",
        (
            _web(
                "Google Drive (DomainBed)",
                "PACS.zip",
                0.2,
                "drive:1JFr8f805nMUelQWWmfnJR3y4_SYoN5Pd",
            ),
        ),
        other_names={"kfold": "PACS"},
    ),
    "vlcs": Recipe(
        3.6,
        "none stated",
        (
            _web(
                "Google Drive (DomainBed)",
                "VLCS.tar.gz",
                3.6,
                "drive:1skwblH1_okBwxWxmRsp9_qi15hyPpxg8",
            ),
        ),
    ),
    "office_home": Recipe(
        1.1,
        "research, non-commercial",
        (
            _web(
                "Google Drive (DomainBed)",
                "office_home.zip",
                1.1,
                "drive:1uY0pj7oFsjMxRwaD3Sxy0jgel0fsYXLC",
            ),
        ),
        other_names={"OfficeHomeDataset_10072016": "office_home"},
    ),
    "terra_incognita": Recipe(
        6,
        "CDLA permissive 1.0",
        (
            _camera_traps("eccv_18_annotations.tar.gz"),
            _camera_traps("labels/caltech_camera_traps.json.zip"),
        ),
    ),
    "domain_net": Recipe(
        18,
        "research, non-commercial",
        (
            Files(
                "csr.bu.edu",
                (
                    _DUPLICATES,
                    *(
                        RemoteFile(f"{path.split('/')[-1]}.zip", (f"{VISDA}/{path}.zip",), size)
                        for path, size in _DOMAIN_NET
                    ),
                ),
            ),
        ),
    ),
}
