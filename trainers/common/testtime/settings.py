"""What every trainer on a stream reads of its own config node."""

from dataclasses import dataclass

from dassl.config import Settings, above, one_of, setting
from trainers.common.settings import precision

from .confident_views import confident_count

VIEW_KINDS = ("auto", "crop", "augmix")
ON_TEST = {"TEST.SPLIT": "test"}  # the validation split is streamed whole


@dataclass(frozen=True)
class StreamSettings(Settings):
    """Views of the test images, and the stream's order, part and state."""

    n_views: int = setting(32, "views per test image, the un-augmented one included", varies=True)
    selection_p: float = setting(0.1, "share of the views that is trusted", varies=True)
    view_kind: str = setting(
        "auto",
        "augmented views; auto: crop on ImageNet sets, else augmix",
        one_of(*VIEW_KINDS),
        read_if={"n_views": above(1)},
        varies=True,
    )
    stream_seed: int = setting(-1, "seed of the test stream's order; -1: SEED")
    stream_length: int = setting(
        -1, "images in this run, the state is then saved; -1: all", read_if=ON_TEST
    )
    stream_state: str = setting("", "state file to continue from", read_if=ON_TEST)
    legacy_food101_names: bool = setting(False, "swap two names, as in the published numbers")
    prec: str = precision("fp32")

    @property
    def confident(self) -> int:
        """Number of views that are trusted."""
        return confident_count(self.n_views, self.selection_p, key=self.section)

    def check(self) -> None:
        confident_count(self.n_views, self.selection_p, key=self.section)  # at least one
        if self.stream_length != -1 and self.stream_length < 1:
            raise ValueError(
                f"{self.key('stream_length')} is {self.stream_length}; expected a number of "
                "images, or -1 for all of them."
            )
