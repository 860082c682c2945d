"""What `test_settings_matter.py` cannot derive: other values, effects, and the keys left out."""

from typing import NamedTuple


class Or(NamedTuple):
    """Two legal values: the one that a run does not have is its other value."""

    first: object
    second: object

    def than(self, value: object) -> object:
        """The one that is not `value`."""
        return self.second if value == self.first else self.first


# Another legal value, where it is not the other boolean, the next whole number or twice a fraction.
OTHER = {
    "DATALOADER.SEEDING": "worker",
    "DATALOADER.TEST.SAMPLER": "RandomSampler",
    "DATALOADER.TRAIN_U.SAMPLER": "SequentialSampler",
    "DATALOADER.TRAIN_X.BATCH_SIZE": Or(2, 3),
    "DATALOADER.TRAIN_X.SAMPLER": "SequentialSampler",
    "DATASET.CIFAR_C_TYPE": "fog",
    "DATASET.NUM_SHOTS": Or(3, 2),
    "DATASET.PROMPT": "a sketch of a _.",
    "DATASET.SOURCE_DOMAINS": ("night",),
    "DATASET.SUBSAMPLE_CLASSES": Or("base", "all"),
    "DATASET.TARGET_DOMAINS": ("noise",),
    "DATASET.TEMPLATES": ("a sketch of a {}.",),
    "INPUT.COLORJITTER_H": 0.1,
    "INPUT.CUTOUT_LEN": 8,
    "INPUT.GB_K": 3,
    "INPUT.INTERPOLATION": "nearest",
    "INPUT.PIXEL_MEAN": [0.1, 0.2, 0.3],
    "INPUT.PIXEL_STD": [0.4, 0.5, 0.6],
    "INPUT.RESIZE": Or("squash", "shortest"),
    "INPUT.RGS_P": 0.9,
    "INPUT.RRCROP_SCALE": (0.2, 0.5),
    "INPUT.SIZE": (24, 24),
    "INPUT.TEACHER_NORM": Or("clip", "imagenet"),
    "INPUT.TRANSFORMS": ("random_flip", "normalize"),
    "LOSS.NAME": "ce",
    "MODEL.BACKBONE.ACTIVATION": "gelu",
    "MODEL.HEAD.ACTIVATION": "tanh",
    "MODEL.HEAD.HIDDEN_LAYERS": (3,),
    "MODEL.HEAD.NAME": "mlp",
    "OPTIM.ADAM_BETA1": 0.5,
    "OPTIM.ADAM_BETA2": 0.9,
    "OPTIM.EPS": 0.1,
    "OPTIM.ETA_MIN": 1e-4,
    "OPTIM.LR_SCHEDULER": Or("cosine", "multi_step"),
    "OPTIM.MOMENTUM": 0.5,
    "OPTIM.NAME": "radam",
    "OPTIM.NEW_LAYERS": ("up",),
    "OPTIM.RMSPROP_ALPHA": 0.5,
    "OPTIM.SGD_DAMPNING": 1,
    "OPTIM.STEPSIZE": Or((1,), (2,)),
    "OPTIM.STEP_PER": Or("batch", "epoch"),
    "OPTIM.WARMUP_EPOCH": 2,
    "OPTIM.WARMUP_TYPE": Or("linear", "constant"),
    "OPTIM.WEIGHT_DECAY": 0.5,
    "SWAD.TOLERANCE": 0.0,
    "SWAD.RESET": Or("every_checkpoint", "cumulative"),
    "SWAD.RESET.ALIGN": "every_checkpoint",
    "SWAD.RESET.DISTILL": "every_checkpoint",
    "RUN.DATASET": "other",
    "RUN.PART": "other",
    "RUN.RECIPE": "other",
    "STEPS.CUTMIX_PROB": 0.5,
    "STEPS.MODEL_SAVE": 0,
    "STEPS.N": 4,
    "STEPS.RECORDS": "all",
    "TEST.EVALUATOR": "Regression",
    "TEST.FINAL_MODEL": "best_val",
    "TEST.SELECT_ON": Or("val", "last"),
    "TEST.SPLIT": "val",
    "TRAIN.COUNT_ITER": "smaller_one",
    "TRAIN.PRECISION": "tf32",
    "TRAIN.VIEWS": Or("fresh", "bank"),
    "TRAINER.ADAPTER.CONSTRAINT": Or("none", "l2"),
    "TRAINER.ADAPTER.ENHANCED_BASE": "train",
    "TRAINER.ADAPTER.INIT": "TP",
    "TRAINER.AMU.AUX": "toy:student",
    "TRAINER.AMU.AUX_INIT": Or("random", "shots"),
    "TRAINER.AMU.UNCENT_TYPE": "entropy",
    "TRAINER.CLAP.CONSTRAINT": Or("none", "l2"),
    "TRAINER.CLIPADAPTER.SEARCH_RATIO": (0.2, 0.8),
    "TRAINER.COCOOP.CTX_INIT": "an old photo",
    "TRAINER.VL2V.MODEL_SAVE": {"saved"},
    "TRAINER.VL2V": {"start", "losses", "scores", "refused"},
    "TRAINER.COOP.CLASS_TOKEN_POSITION": "front",
    "TRAINER.COOP.CTX_INIT": "an old photo",
    "TRAINER.DMN.ALPHA": (1.0, 3.0, 3.0),
    "TRAINER.DMN.MEMORY_SIZE": 2,
    "TRAINER.DMN.N_AUGVIEW": 8,
    "TRAINER.DMN.NUM_IMPORTANT_CHANNEL": 8,
    "TRAINER.DMN.N_VIEWS": 16,
    "TRAINER.DMN.POSITION": Or("query", "all"),
    "TRAINER.DMN.SELECTION_P": 1.0,
    "TRAINER.DMN.SETTING": "training_free",
    "TRAINER.DMN.STREAM_LENGTH": 2,
    "TRAINER.DMN.TEXT_PROMPT": "full",
    "TRAINER.DMN.VIEW_KIND": "augmix",
    "TRAINER.ERM.HEAD": Or("projected", "linear"),
    "TRAINER.ERM.PROMPT_STYLE": 3,
    "TRAINER.IVLP.CTX_INIT": "an old photo of",
    "TRAINER.IVLP.PROMPT_DEPTH_TEXT": 1,
    "TRAINER.IVLP.PROMPT_DEPTH_VISION": 1,
    "TRAINER.LASP.CTX_INIT": "an old photo",
    "TRAINER.LASP.GRAD_CLIP": 1e-3,
    "TRAINER.LASP.LASP_PROMPTS": ["a sketch of a {}."],
    "TRAINER.LINEARPROBE.COARSE_C": (0.01, 100.0),
    "TRAINER.LINEARPROBE.DRAW": "lpclip",
    "TRAINER.LINEARPROBE.MAX_ITER": 1,
    "TRAINER.LINEARPROBE.NUM_STEP": 1,
    "TRAINER.LINEARPROBE.TOLERANCE": 0.1,
    "TRAINER.MAPLE.CTX_INIT": "an old photo of",
    "TRAINER.MAPLE.PROMPT_DEPTH": 1,
    "TRAINER.MMADAPTER.ADAPTER_END": 1,
    "TRAINER.MMADAPTER.ADAPTER_START": 2,
    "TRAINER.MMADAPTER.TEXT_CTX_INIT": "an old photo of",
    "TRAINER.MIRO.VAR_EPS": 0.05,
    "TRAINER.NAIVEKD.LOSS": "one_stage",
    "TRAINER.PRODA.N_PROMPT": 8,
    "TRAINER.PRODA.PROMPT_BS": 1,
    "TRAINER.PROMPTSRC.CTX_INIT": "an old photo of",
    "TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT": 1,
    "TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION": 1,
    "TRAINER.RPO.CTX_INIT": "an old photo",
    "TRAINER.TIPADAPTER.SEARCH_SCALE": (3.0, 1.0),
    "TRAINER.TIPADAPTER.SEARCH_STEP": (3, 3),
    "TRAINER.TPT.CTX_INIT": "an_old_photo",
    "TRAINER.TPT.SELECTION_P": 1.0,
    "TRAINER.TPT.STREAM_LENGTH": 2,
    "TRAINER.TPT.VIEW_KIND": "augmix",
    "TRAINER.TaskRes.ENHANCED_BASE": Or("train", "none"),
    "TRAINER.TaskRes.VARIANT": "image",
    "TRAINER.VL2V.PROMPT_STYLE": 3,
    "TRAINER.VPT.CTX_INIT": "an old photo of",
    "TRAINER.VPT.PROMPT_DEPTH_VISION": 1,
    "TRAINER.ZEROSHOTCLIP2.TEMPLATES": "full",
}
# Precision is the same on a CPU; a GPU's is tested in test_precision.py.
OTHER |= {f"TRAINER.{node}.PREC": "fp16" for node in (
    "ADAPTER", "CLAP", "CLIPADAPTER", "COCOOP", "COOP", "DMN", "IVLP", "LASP", "MAPLE", "MMADAPTER",
    "PRODA", "PROMPTSRC", "RPO", "TPT", "TaskRes", "VPT",
)}  # fmt: skip

# Keys whose effect has a kind of its own: their other values may be set in one run together.
TOGETHER = {
    "OPTIM.ADAM_BETA1": "betas[0]",
    "OPTIM.ADAM_BETA2": "betas[1]",
    "OPTIM.EPS": "eps",
    "OPTIM.MOMENTUM": "momentum",
    "OPTIM.RMSPROP_ALPHA": "alpha",
    "OPTIM.SGD_DAMPNING": "dampening",
    "OPTIM.WEIGHT_DECAY": "weight_decay",
    "SWAD.N_CONVERGE": "n_converge",
    "SWAD.N_TOLERANCE": "n_tolerance",
    "SWAD.TOLERANCE": "tolerance",
    "TEST.COMPUTE_CMAT": "confusion matrix",
    "TEST.PER_CLASS_RESULT": "per class",
    "TEST.SPLIT": "splits",
    "TRAIN.CHECKPOINT_FREQ": "checkpoints",
}

# What another value changes first: the first pattern that the key begins with counts, beside its
# kind in TOGETHER. "refused" stands for keys with one legal value: a ValueError that names the key.
EFFECTS = {
    "DATALOADER.K_TRANSFORMS": {"refused"},
    "DATALOADER.SEEDING": {"items", "views"},
    "DATALOADER.TEST": {"scores"},
    "DATALOADER.TRAIN_X.SAMPLER": {"items", "refused"},
    "DATALOADER.TRAIN_X": {"rates", "items"},
    "DATASET.INCLUDE_ALL_CLASSES": {"losses"},
    "DATASET.PROMPT": {"start", "losses"},
    "DATASET.TEMPLATES": {"start", "losses", "scores", "refused"},
    "DATASET": {"shapes", "start", "rates", "items", "views", "scores", "refused"},
    "INPUT.INTERPOLATION": {"views", "losses", "scores", "refused"},
    "INPUT.NO_TRANSFORM": {"refused"},
    "INPUT.RESIZE": {"views", "scores", "refused"},
    "INPUT.SIZE": {"refused"},
    "INPUT.TEACHER_NORM": {"losses", "refused"},
    "INPUT": {"views", "scores", "refused"},
    "LOSS.NAME": {"refused"},
    "LOSS": {"losses", "scores"},
    "MODEL": {"shapes", "start", "views", "losses", "scores", "refused"},
    "OPTIM.NAME": {"optimiser", "scores"},
    "OPTIM.SGD_NESTEROV": {"nesterov"},
    "OPTIM.STEP_PER": {"rates", "refused"},
    "OPTIM.NEW_LAYERS": {"rates", "losses"},
    "OPTIM.MAX_EPOCH": {"rates", "items"},
    "OPTIM.ADAM": {"scores"},
    "OPTIM.EPS": {"scores"},
    "OPTIM": {"rates"},
    "SEED": {"start", "items", "views", "losses", "scores"},
    "STEPS.CUTMIX": {"losses"},
    "STEPS.MODEL_SAVE": {"saved", "refused"},
    "STEPS.RECORDS": {"scores"},
    "STEPS": {"rates", "scores", "items"},
    "SWAD.ENABLED": {"n_converge"},
    "SWAD": {"saved", "scores", "results"},
    "TEST.EVALUATOR": {"refused"},
    "TEST.SPLIT": {"scores"},
    "TEST": {"scores", "results", "refused"},
    "TRAIN.CHECKPOINT_FREQ": {"files"},
    "TRAIN.VIEWS": {"views", "scores"},
    "TRAIN.NUM_VIEWS": {"views"},
    "TRAINER.ADAPTER.ENHANCED_BASE": {"refused"},
    "TRAINER.ADAPTER.INIT": {"refused"},
    "TRAINER.LASP.LN_LR_MULT": {"rates"},
    "TRAINER.MIRO.LR_MULT": {"rates"},
    "TRAINER.TaskRes.BASE_LR": {"rates"},
    "TRAINER.TaskRes.BASE_EPOCHS": {"rates", "items"},
    "TRAINER.VL2V.MODEL_SAVE": {"saved"},
    "TRAINER.VL2V": {"start", "losses", "scores", "refused"},
    "TRAINER.COOP.CLASS_TOKEN_POSITION": {"losses", "refused"},
    "TRAINER": {"shapes", "start", "items", "views", "losses", "scores", "results"},
}

# Keys that may change nothing: they are set to another value, and nothing may change.
NEUTRAL = {
    "DATALOADER.CACHE_MB": "memory for decoded images",
    "DATALOADER.SKIP_BAD_IMAGES": "there is no bad image",
    "RUN.DATASET": "a label of the results",
    "RUN.PART": "a label of the results",
    "RUN.RECIPE": "a label of the results",
    "STEPS.CACHE_GB": "memory for resized images",
    "TRAIN.PRINT_FREQ": "how often progress is printed",
    "TRAIN.PRECISION": "a CPU computes in fp32: test_precision.py",
    "TRAIN.DETERMINISTIC": "a CPU repeats its bits: test_precision.py",
    "TRAIN.GRACE_SECONDS": "how long a signal waits for the current step",
}
NEUTRAL |= {key: "a CPU computes in fp32 and says so" for key in OTHER if key.endswith(".PREC")}
NO_SHOTS = {"DATASET.NUM_SHOTS": "a protocol gives it to every run, also to one without shots"}
OF_STEPS = {
    "DATALOADER.TEST.BATCH_SIZE": "images of an evaluation at once",
    "MODEL.FREEZE_BN": "the student has no BatchNorm",
}
NOTHING_DRAWN = {"SEED": "nothing is drawn"}
NEUTRAL_OF = {
    "LinearProbe": {"SEED": "all images are fitted at once; DRAW coop leaves the draw to the set"},
    "StagedTrainer": OF_STEPS,
    "StepTrainer": OF_STEPS,
    "TPT": NO_SHOTS,
    "TipAdapter": {"SEED": "the stored views that the cache is made of belong to no run"},
    "ZeroshotCLIP": NO_SHOTS | NOTHING_DRAWN,
    "ZeroshotCLIP2": NO_SHOTS | NOTHING_DRAWN,
}

# Keys that are not set here, with the test that sets them, or why nothing does.
ELSEWHERE = {
    "DATALOADER.NUM_WORKERS": "test_dassl_data.py, test_feature_bank.py, test_step_trainer.py",
    "DATALOADER.TRAIN_X.N_DOMAIN": "test_dassl_samplers.py",
    "DATASET.VAL_SHOTS": "test_datasets_fewshot.py",
    "INPUT.AUGMENT_ON_DEVICE": "where views are made: test_drawn.py",
    "INPUT.NORMALIZE_ON_DEVICE": "the same pixels: test_pixels.py",
    "INPUT.UPRIGHT": "needs images that say how they are turned: test_image_files.py",
    "DATASET.CLASSNAMES": "of sets of one's own: test_own_data.py",
    "DATASET.NAME": "says what the run is",
    "DATASET.ROOT": "says where the images are",
    "DATASET.TABLE": "says where the images are",
    "OUTPUT_DIR": "says where the run is",
    "RESUME": "test_engine_resume.py",
    "RUN.PROTOCOL": "test_train_cli.py",
    "TRAIN.ACCUMULATE": "memory against time: test_accumulate.py",
    "TRAIN.COMPILE": "the same numbers within rounding: test_compiled.py",
    "TRAIN.TEXT_CHUNK": "memory against time: test_prompts.py",
    "TRAINER.AMU.AUX_WEIGHTS": "test_amu.py",
    "TRAINER.DMN.CUPL_FILE": "needs files of sentences: test_dmn.py",
    "TRAINER.DMN.LEGACY_FOOD101_NAMES": "needs classes of Food101: test_dmn.py",
    "TRAINER.DMN.STREAM_STATE": "needs a file of another run: test_stream.py",
    "TRAINER.NAME": "says what the run is",
    "TRAINER.TPT.LEGACY_FOOD101_NAMES": "needs classes of Food101: test_dmn.py",
    "TRAINER.TPT.STREAM_STATE": "needs a file of another run: test_stream.py",
    "TRAINER.VL2V.SCALE": "needs an endpoint: test_vl2v_adip.py",
    "USE_CUDA": "needs a GPU",
    "VERBOSE": "what is printed: test_train_cli.py",
    "VERSION": "of the format of configs",
}

# How engine keys begin that no trainer here reads.
_ABSENT = "of datasets and trainers of the original that are not here"
OF_THE_ENGINE = {
    "DATALOADER.RETURN_IMG0": "of the engine's loaders: test_dassl_data.py",
    "DATALOADER.TRAIN_U": "of trainers that read unlabelled images: test_engine_loop.py",
    "DATASET.ALL_AS_UNLABELED": _ABSENT,
    "DATASET.CIFAR_C_": _ABSENT,
    "DATASET.NUM_LABELED": _ABSENT,
    "DATASET.STL10_FOLD": _ABSENT,
    "DATASET.VAL_PERCENT": _ABSENT,
    "MODEL.HEAD": "of the engine's own networks: test_engine_loop.py",
    "TRAIN.COUNT_ITER": "of trainers that read unlabelled images: test_engine_loop.py",
}
# Keys of a trainer's own node that no run reads, with the reason.
NEVER: dict[str, dict[str, str]] = {
    "KgCoOp": {"TRAINER.COOP.ALPHA": "the official code declares it and does not read it"},
    "ProGrad": dict.fromkeys(
        ("LOSS.ALPHA", "LOSS.GM"), "the official code declares it and does not read it"
    ),
    "RPO": {"TRAINER.RPO.CTX_INIT": "the official code declares it and does not read it"},
    "VL2VAlign": {"TRAINER.VL2V.MODEL_SAVE.DISTILL": "of the other stage"},
    "VL2VDistill": {"TRAINER.VL2V.MODEL_SAVE.ALIGN": "of the other stage"},
    "TaskResBase": {
        f"TRAINER.TaskRes.{key}": "of the residual, which is the next stage"
        for key in (
            *("RESIDUAL_SCALE", "VARIANT", "LEARNABLE_ALPHA"),
            *("ENHANCED_BASE", "BASE_LR", "BASE_EPOCHS"),
        )
    },
}

# Further base runs of a trainer. Keys that are idle in the smallest run, or that count in none of
# its kind (LATER), are set to another value where they count, and so are all of TRAINER.
LATER = {"TRAINER.TPT.COCOOP"}
CUTMIX = {"STEPS.CUTMIX_BETA": "1.0", "STEPS.CUTMIX_PROB": "1.0"}
SWAD = {"SWAD.ENABLED": "True", **CUTMIX}
TEXT = {"TRAINER.ERM.HEAD": "text", "SEED": "3"}
PROJECTED = {"TRAINER.ERM.HEAD": "projected"}
TRANSFORMS = (
    "('random_crop', 'cutout', 'randaugment', 'gaussian_noise', 'colorjitter', 'randomgrayscale', "
    "'gaussian_blur', 'normalize')"
)
COCOOP_FILE = "{a checkpoint of CoCoOp}"  # stands for its path
CONTEXTS = {
    "AMU": [{"TRAINER.AMU.UNCENT_TYPE": "var", "TRAINER.AMU.AUX_INIT": "random"}],
    "CLAP": [{"TRAINER.CLAP.CONSTRAINT": "none"}],
    "CLIPAdapter": [  # the engine's keys, with stored features
        {
            "OPTIM.NAME": "adam",
            "OPTIM.LR_SCHEDULER": "multi_step",
            "OPTIM.STEPSIZE": "(1,)",
            "OPTIM.STAGED_LR": "True",
            "OPTIM.NEW_LAYERS": "('down',)",
        },
        {"OPTIM.NAME": "rmsprop", "OPTIM.WARMUP_TYPE": "linear"},
    ],
    "CoCoOp": [{"TRAINER.COCOOP.CTX_INIT": ""}],
    "CoOp": [{"TRAINER.COOP.CTX_INIT": ""}],
    "DMN": [
        {
            "TEST.SELECT_ON": "last",
            "TRAINER.DMN.NUM_IMPORTANT_CHANNEL": "4",
            "TRAINER.DMN.POSITION": "query",
            "TRAINER.DMN.TEXT_PROMPT": "tip",
        },
        {"TRAINER.DMN.SETTING": "zero_shot"},
    ],
    "ERM": [TEXT, PROJECTED, {"MODEL.BACKBONE.NAME": "toy"}, SWAD],
    "IVLP": [{"TRAINER.IVLP.N_CTX_TEXT": "5"}],
    "KgCoOp": [{"TRAINER.COOP.CTX_INIT": "False"}],
    "LASP": [
        {
            "TRAINER.LASP.CTX_INIT": "",
            "TRAINER.LASP.FINETUNE_VIT_LN": "False",
            "TRAINER.LASP.PREC": "amp",
            "DATASET.SUBSAMPLE_CLASSES": "base",
        },
    ],
    "LP": [TEXT, PROJECTED, SWAD],
    "LPFT": [TEXT, PROJECTED, SWAD],
    "LinearProbe": [{"TEST.SELECT_ON": "last"}],
    "MIRO": [SWAD],
    "MaPLe": [{"TRAINER.MAPLE.N_CTX": "5"}],
    "NaiveKD": [{"TRAINER.NAIVEKD.LOSS": "img_only"}, CUTMIX],
    "ProGrad": [{"TRAINER.COOP.CTX_INIT": "False"}],
    "PromptSRC": [{"TRAINER.PROMPTSRC.N_CTX_TEXT": "5"}],
    "TPT": [{"TRAINER.TPT.CTX_FILE": COCOOP_FILE}],
    "TaskRes": [{"TRAINER.TaskRes.ENHANCED_BASE": "train", "TRAINER.TaskRes.BASE_EPOCHS": "2"}],
    "TipAdapter": [{"TEST.SELECT_ON": "last"}],
    "TipAdapterF": [{"TEST.SELECT_ON": "last"}],
    "VL2VADiP": [CUTMIX],
    "VL2VAlign": [CUTMIX],
    "VL2VDistill": [CUTMIX],
    "VL2VSD": [CUTMIX],
    "VPT": [  # the engine's keys, with images
        {"DATASET.TEMPLATES": "('a drawing of a {}.',)"},
        {"INPUT.TRANSFORMS": TRANSFORMS},
        {
            "DATALOADER.TRAIN_X.SAMPLER": "RandomClassSampler",
            "DATALOADER.TRAIN_X.N_INS": "2",
            "DATALOADER.TRAIN_X.BATCH_SIZE": "4",
        },
    ],
}
