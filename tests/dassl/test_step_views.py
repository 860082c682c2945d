"""What a step-based run trains on: the views of DomainBed, drawn from every source domain."""

import pytest
import torch
from step_world import DOMAINS, make_domains, step_config
from torchvision import transforms as T

import datasets  # noqa: F401
import trainers  # noqa: F401
from dassl.data.seeding import seeded
from dassl.engine import build_trainer
from dassl.utils import read_image

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """ERM with its own defaults, target domain "paper"."""
    folder = tmp_path_factory.mktemp("views")
    return build_trainer(step_config(make_domains(folder / "domains"), folder / "run", "ERM"))


def test_training_views_are_those_of_domainbed(trainer):
    size = trainer.student.input_size
    expected = T.Compose(
        [
            T.RandomResizedCrop((size, size), scale=(0.7, 1.0)),
            T.RandomHorizontalFlip(),
            T.ColorJitter(0.3, 0.3, 0.3, 0.3),
            T.RandomGrayscale(0.1),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
    )
    loader = trainer.train_loader_x
    draws = [draw for step in range(8) for draw in loader.batch_sampler.draw(step)]

    views = [loader.dataset[draw]["img"] for draw in draws]

    for (row, seed), view in zip(draws, views):
        with seeded(seed):
            other = expected(read_image(trainer.dm.dataset.train_x[row].impath))
        torch.testing.assert_close(view, other, rtol=0, atol=1e-6)


def test_a_batch_holds_equally_many_images_of_every_source_domain(trainer):
    trainer.train_loader_x.set_steps(3, 5)

    batches = list(trainer.train_loader_x)

    sources = [d for d, name in enumerate(DOMAINS) if name != "paper"]
    for batch in batches:
        assert batch["domain"].tolist() == [d for d in sources for _ in range(4)]
    assert not torch.equal(batches[0]["img"], batches[1]["img"])
