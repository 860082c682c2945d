"""Defaults of every engine key. Keys marked `ours` are additions to the original's."""

from .node import Config as CN
from .pixels import DEFAULTS


def _input(cfg: CN) -> None:
    node = cfg.INPUT = CN()
    # SIZE, INTERPOLATION, RESIZE, PIXEL_MEAN and PIXEL_STD follow the network where train.py builds
    # one that tells them (dassl/config/pixels.py)
    node.SIZE = DEFAULTS["SIZE"]  # height, width in pixels
    node.INTERPOLATION = DEFAULTS["INTERPOLATION"]  # bilinear | bicubic | nearest
    # ours: test images: shortest: shorter side to SIZE, then centre crop | squash: all of the image
    node.RESIZE = DEFAULTS["RESIZE"]
    node.UPRIGHT = False  # ours: turn photographs by their EXIF tag (published sets: as they lie)
    node.TRANSFORMS = ()  # names of dassl.data.transforms.AVAI_CHOICES
    node.NO_TRANSFORM = False  # True: the loader yields PIL images
    node.PIXEL_MEAN = list(DEFAULTS["PIXEL_MEAN"])  # per channel, of pixels in [0, 1]
    node.PIXEL_STD = list(DEFAULTS["PIXEL_STD"])
    node.NORMALIZE_ON_DEVICE = False  # ours: loaders hand over bytes; the device normalises them
    node.AUGMENT_ON_DEVICE = False  # ours: training views are drawn when read, made on the device
    node.CROP_PADDING = 4  # random_crop: pixels on each side
    node.RRCROP_SCALE = (0.08, 1.0)  # random_resized_crop: fraction of the area
    node.CUTOUT_N = 1  # holes
    node.CUTOUT_LEN = 16  # side of a hole in pixels
    node.GN_MEAN = 0.0  # gaussian_noise
    node.GN_STD = 0.15
    node.RANDAUGMENT_N = 2  # operations per image
    node.RANDAUGMENT_M = 10  # magnitude, 0 to 30
    node.COLORJITTER_B = 0.4  # brightness
    node.COLORJITTER_C = 0.4  # contrast
    node.COLORJITTER_S = 0.4  # saturation
    node.COLORJITTER_H = 0.1  # hue
    node.RGS_P = 0.2  # randomgrayscale: probability
    node.GB_P = 0.5  # gaussian_blur: probability
    node.GB_K = 21  # gaussian_blur: kernel size in pixels, odd


def _dataset(cfg: CN) -> None:
    node = cfg.DATASET = CN()
    node.ROOT = ""  # folder that holds all datasets
    node.NAME = ""  # registered class name
    node.TABLE = ""  # ours: CSV file of a set of one's own (--dataset csv:FILE)
    node.CLASSNAMES = ""  # ours: file of class names of such a set; "": the one beside it, if any
    node.SOURCE_DOMAINS = ()
    node.TARGET_DOMAINS = ()
    node.NUM_LABELED = -1
    node.NUM_SHOTS = -1  # images per class; < 1: all
    node.VAL_SHOTS = 4  # ours: validation draw is min(NUM_SHOTS, VAL_SHOTS); -1: the whole split
    node.SUBSAMPLE_CLASSES = "all"  # all | base | new
    node.TRIAL_SEED = -1  # ours: seed of the in / out split of multi-domain sets; -1: SEED
    node.HOLDOUT = 0.2  # ours: their share of out images per domain
    node.TEMPLATES = ()  # ours: sentences with one {} that replace the dataset's own
    node.VAL_PERCENT = 0.1
    node.STL10_FOLD = -1
    node.CIFAR_C_TYPE = ""
    node.CIFAR_C_LEVEL = 1
    node.ALL_AS_UNLABELED = False


def _loaders(cfg: CN) -> None:
    node = cfg.DATALOADER = CN()
    node.NUM_WORKERS = 4  # processes per loader; 0: in the main process; -1: one per core, with
    # SEEDING worker 8. With SEEDING sample at most one per core, except where a pair asks for more
    node.K_TRANSFORMS = 1  # training views per image in one batch
    node.RETURN_IMG0 = False  # also yield the untransformed image as img0
    node.SEEDING = "sample"  # ours: sample: augmentation seeded by (SEED, epoch, index), the same
    # for any number of workers | worker: the original's stream, one generator per worker
    node.SKIP_BAD_IMAGES = False  # ours: leave out missing and corrupt images, counting them
    node.CACHE_MB = 512  # ours: memory for decoded training images, all workers together; 0: none
    for name in ("TRAIN_X", "TRAIN_U"):
        loader = node[name] = CN()
        loader.SAMPLER = "RandomSampler"
        loader.BATCH_SIZE = 32
        loader.N_DOMAIN = 0  # RandomDomainSampler: domains per batch, 0: all
        loader.N_INS = 16  # RandomClassSampler: images per class in a batch
    node.TRAIN_U.SAME_AS_X = True
    node.TEST = CN()
    node.TEST.SAMPLER = "SequentialSampler"
    node.TEST.BATCH_SIZE = 32


def _model(cfg: CN) -> None:
    node = cfg.MODEL = CN()
    node.INIT_WEIGHTS = ""  # file or run folder to start from
    node.BACKBONE = CN()
    node.BACKBONE.NAME = ""
    node.BACKBONE.PRETRAINED = True
    node.BACKBONE.ACTIVATION = ""  # quick_gelu | gelu, for a weights file that does not tell
    node.HEAD = CN()
    node.HEAD.NAME = ""
    node.HEAD.HIDDEN_LAYERS = ()
    node.HEAD.ACTIVATION = "relu"
    node.HEAD.BN = True
    node.HEAD.DROPOUT = 0.0


def _optim(cfg: CN) -> None:
    node = cfg.OPTIM = CN()
    node.NAME = "adam"  # adam | amsgrad | sgd | rmsprop | radam | adamw
    node.LR = 0.0003
    node.WEIGHT_DECAY = 5e-4
    node.MOMENTUM = 0.9
    node.SGD_DAMPNING = 0
    node.SGD_NESTEROV = False
    node.RMSPROP_ALPHA = 0.99
    node.ADAM_BETA1 = 0.9
    node.ADAM_BETA2 = 0.999
    node.EPS = 1e-8  # ours: denominator term of the adaptive optimisers
    node.STAGED_LR = False  # NEW_LAYERS train at LR, the rest at LR * BASE_LR_MULT
    node.NEW_LAYERS = ()
    node.BASE_LR_MULT = 0.1
    node.LR_SCHEDULER = "single_step"  # single_step | multi_step | cosine
    node.STEPSIZE = (-1,)  # epochs; single_step: one number, < 1: MAX_EPOCH
    node.GAMMA = 0.1  # factor of a step
    node.ETA_MIN = 0.0  # ours: the rate that cosine ends at
    node.STEP_PER = "epoch"  # ours: epoch | batch: when the schedule moves
    node.MAX_EPOCH = 10
    node.WARMUP_EPOCH = -1  # < 1: none
    node.WARMUP_TYPE = "linear"  # linear | constant
    node.WARMUP_CONS_LR = 1e-5
    node.WARMUP_MIN_LR = 1e-5
    node.WARMUP_RECOUNT = True  # the schedule starts from 0 after the warm-up


def _train_and_test(cfg: CN) -> None:
    node = cfg.TRAIN = CN()
    node.CHECKPOINT_FREQ = 0  # epochs between checkpoints, < 1: only the last
    node.PRINT_FREQ = 10  # batches between progress lines
    node.GRACE_SECONDS = 30.0  # ours: from SIGTERM, SIGUSR1, SIGHUP or Ctrl-C to the end
    node.ACCUMULATE = 1  # ours: parts of a batch that are computed one after the other
    node.COUNT_ITER = "train_x"  # train_x | train_u | smaller_one
    node.PRECISION = ""  # ours: fp32 | tf32 | fp16 | bf16 | amp on a GPU; "": a PREC of fp16 or
    # amp, else what the method's official code does, or tf32
    node.DETERMINISTIC = False  # ours: the same bits every time on a GPU, too; slower
    node.COMPILE = False  # ours: torch.compile for the blocks of networks; pays for long runs
    node.TEXT_CHUNK = 0  # ours: prompts encoded at once when text learns, 0: all
    node.VIEWS = "fresh"  # ours: fresh: a new view per epoch | bank: NUM_VIEWS stored views
    node.NUM_VIEWS = 10  # ours
    node = cfg.TEST = CN()
    node.EVALUATOR = "Classification"
    node.PER_CLASS_RESULT = False
    node.COMPUTE_CMAT = False  # save the confusion matrix as cmat.pt
    node.NO_TEST = False
    node.SPLIT = "test"  # val | test
    node.FINAL_MODEL = "last_step"  # last_step | best_val
    node.SELECT_ON = "last"  # ours: last | val | source_val | test: whose labels chose the model


def _run(cfg: CN) -> None:
    node = cfg.RUN = CN()  # ours: what this run is, for results.json and the tables
    node.PROTOCOL = "fewshot"
    node.PART = ""  # base-to-novel: train_base | test_new
    node.RECIPE = ""  # stem of the first --config-file
    node.DATASET = ""  # stem of the dataset config


def _defaults() -> CN:
    cfg = CN()
    cfg.VERSION = 1
    cfg.OUTPUT_DIR = "./output"
    cfg.RESUME = ""  # folder of a run to continue
    cfg.SEED = -1  # < 0: drawn, and kept as drawn_seed.txt; 0 is a seed
    cfg.USE_CUDA = True
    cfg.VERBOSE = True
    for section in (_input, _dataset, _loaders, _model, _optim, _train_and_test, _run):
        section(cfg)
    cfg.TRAINER = CN()
    cfg.TRAINER.NAME = ""
    return cfg


def get_cfg_default() -> CN:
    """Return a fresh config with every engine key at its default."""
    return _defaults()
