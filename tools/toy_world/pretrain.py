"""Re-create the checkpoints of the toy world, each with one command.

python tools/toy_world/pretrain.py vit        # toy/ViT        clip/weights/toy_vit.pt
python tools/toy_world/pretrain.py rn         # toy/RN         clip/weights/toy_rn.pt
python tools/toy_world/pretrain.py aux        # auxiliary encoder, label-trained
python tools/toy_world/pretrain.py simclr     # the same without labels
python tools/toy_world/pretrain.py student    # student for leave-one-domain-out

Images are rendered once into --work; training resumes from there when it is interrupted. A GPU is
used when there is one. --minutes is wall-clock time on an idle machine.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dassl.flags import FlagParser
from datasets.toy_world.nets import WEIGHTS
from tools.toy_world import train_clip, train_net
from tools.toy_world.export import export
from tools.toy_world.pool import make_pool

ROOT = Path(__file__).resolve().parents[2]
# minutes: at depth 4 and at depth 12 for the CLIPs
MINUTES = {
    "vit": (42.0, 18.0),
    "rn": (24.0, 7.0),
    "aux": (38.0,),
    "simclr": (25.0,),
    "student": (25.0,),
}


CLIPS = ("vit", "rn")
OF_CLIPS = (  # options that only their training reads
    "grown_minutes",
    "workers",
    "grown_lr",
    "head_weight",
    "shape_weight",
    "clip_norm",
    "easy_until",
    "muon",
)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; the defaults are those of the shipped checkpoints."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=tuple(MINUTES))
    parser.add_argument("--work", type=Path, default=ROOT / "output" / "toy_world")
    parser.add_argument("--weights", type=Path, help="folder of the checkpoint")
    parser.add_argument("--shards", type=int, default=32, help="of 10 000 images each")
    parser.add_argument("--minutes", type=float, help="time budget (of depth 4 for a CLIP)")
    parser.add_argument("--grown-minutes", type=float, help="time budget of depth 12")
    parser.add_argument("--workers", type=int, default=1, help="processes that train together")
    parser.add_argument("--render-workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128, help="per worker")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--grown-lr", type=float, default=0.4, help="peak, relative to --lr")
    parser.add_argument("--head-weight", type=float, default=train_clip.HEAD_WEIGHT)
    parser.add_argument("--shape-weight", type=float, default=4.0)
    parser.add_argument("--clip-norm", type=float, default=1.0)
    parser.add_argument("--easy-until", type=float, default=0.15, help="share of depth 4's time")
    parser.add_argument("--muon", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--report", type=int, default=100, help="steps between two lines")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.kind not in CLIPS:
        parser.refuse(args, OF_CLIPS, f"for {args.kind}, only for {' and '.join(CLIPS)}")
    defaults = MINUTES[args.kind]
    args.minutes = defaults[0] if args.minutes is None else args.minutes
    if args.grown_minutes is None:
        args.grown_minutes = defaults[-1]
    args.pool, args.out = args.work / "pool", args.work / f"{args.kind}.pt"
    return args


def main(argv: list[str] | None = None) -> None:
    """Render, train, export."""
    args = parse(argv)
    make_pool(args.pool, shards=args.shards, workers=args.render_workers)
    if args.kind in CLIPS:
        train_clip.train(args)
        folder = args.weights or ROOT / "clip" / "weights"
        export(args.out, args.pool, folder / f"toy_{args.kind}.pt")
    else:
        args.weights = args.weights or WEIGHTS
        train_net.train(args)


if __name__ == "__main__":
    main()
