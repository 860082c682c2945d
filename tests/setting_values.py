"""What `test_settings_matter.py` cannot derive: other values, effects, and the keys left out."""

from typing import NamedTuple


class Or(NamedTuple):
    """Two legal values: the one that a run does not have is its other value."""

    first: object
    second: object


# Another legal value, where it is not the other boolean, the next whole number or twice a fraction.
OTHER = {
    "DATALOADER.SEEDING": "worker",
    "DATALOADER.TEST.SAMPLER": "RandomSampler",
    "DATALOADER.TRAIN_U.SAMPLER": "SequentialSampler",
    "DATALOADER.TRAIN_X.BATCH_SIZE": 3,
    "DATALOADER.TRAIN_X.SAMPLER": "SequentialSampler",
    "DATASET.CIFAR_C_TYPE": "fog",
    "DATASET.NUM_SHOTS": 2,
    "DATASET.PROMPT": "a sketch of a _.",
    "DATASET.SOURCE_DOMAINS": ("night",),
    "DATASET.SUBSAMPLE_CLASSES": Or("base", "all"),
    "DATASET.TARGET_DOMAINS": ("noise",),
    "DATASET.TEMPLATES": ("a sketch of a {}.",),
    "INPUT.COLORJITTER_H": 0.1,
    "INPUT.GB_K": 3,
    "INPUT.INTERPOLATION": "nearest",
    "INPUT.PIXEL_MEAN": [0.1, 0.2, 0.3],
    "INPUT.PIXEL_STD": [0.4, 0.5, 0.6],
    "INPUT.RRCROP_SCALE": (0.2, 0.5),
    "INPUT.SIZE": (24, 24),
    "INPUT.TEACHER_NORM": "clip",
    "INPUT.TRANSFORMS": ("random_flip", "normalize"),
    "LOSS.NAME": "ce",
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
    "STEPS.N": 6,
    "STEPS.RECORDS": "all",
    "TEST.EVALUATOR": "Regression",
    "TEST.FINAL_MODEL": "best_val",
    "TEST.SELECT_ON": Or("val", "last"),
    "TEST.SPLIT": "val",
    "TRAIN.COUNT_ITER": "smaller_one",
    "TRAIN.VIEWS": Or("fresh", "bank"),
    "TRAINER.AMU.AUX": "toy:student",
    "TRAINER.AMU.AUX_INIT": "random",
    "TRAINER.AMU.UNCENT_TYPE": "entropy",
    "TRAINER.CLAP.CONSTRAINT": "none",
    "TRAINER.CLIPADAPTER.SEARCH_RATIO": (0.2, 0.8),
    "TRAINER.COCOOP.CTX_INIT": "an old photo",
    "TRAINER.COOP.CLASS_TOKEN_POSITION": "front",
    "TRAINER.COOP.CTX_INIT": "an old photo",
    "TRAINER.DMN.ALPHA": (1.0, 3.0, 3.0),
    "TRAINER.DMN.MEMORY_SIZE": 1,
    "TRAINER.DMN.N_AUGVIEW": 8,
    "TRAINER.DMN.NUM_IMPORTANT_CHANNEL": 8,
    "TRAINER.DMN.N_VIEWS": 16,
    "TRAINER.DMN.POSITION": "query",
    "TRAINER.DMN.SELECTION_P": 0.3,
    "TRAINER.DMN.SETTING": "training_free",
    "TRAINER.DMN.STREAM_LENGTH": 4,
    "TRAINER.DMN.TEXT_PROMPT": "full",
    "TRAINER.DMN.VIEW_KIND": "augmix",
    "TRAINER.ERM.HEAD": "projected",
    "TRAINER.ERM.PROMPT_STYLE": 3,
    "TRAINER.IVLP.CTX_INIT": "an old photo of",
    "TRAINER.IVLP.PROMPT_DEPTH_TEXT": 1,
    "TRAINER.IVLP.PROMPT_DEPTH_VISION": 1,
    "TRAINER.LASP.CTX_INIT": "an old photo",
    "TRAINER.LASP.LASP_PROMPTS": ["a sketch of a {}."],
    "TRAINER.LINEARPROBE.DRAW": "lpclip",
    "TRAINER.LINEARPROBE.MAX_ITER": 1,
    "TRAINER.LINEARPROBE.NUM_STEP": 1,
    "TRAINER.MAPLE.CTX_INIT": "an old photo of",
    "TRAINER.MAPLE.PROMPT_DEPTH": 1,
    "TRAINER.MMADAPTER.ADAPTER_END": 1,
    "TRAINER.MMADAPTER.ADAPTER_START": 2,
    "TRAINER.MMADAPTER.TEXT_CTX_INIT": "an old photo of",
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
    "TRAINER.TPT.SELECTION_P": 0.3,
    "TRAINER.TPT.STREAM_LENGTH": 4,
    "TRAINER.TPT.VIEW_KIND": "augmix",
    "TRAINER.TaskRes.ENHANCED_BASE": Or("train", "none"),
    "TRAINER.TaskRes.VARIANT": "image",
    "TRAINER.VL2V.PROMPT_STYLE": 3,
    "TRAINER.VPT.PROMPT_DEPTH_VISION": 1,
    "TRAINER.ZEROSHOTCLIP2.TEMPLATES": "full",
}
# Precision is the same on a CPU; a GPU's is tested in test_precision.py.
OTHER |= {f"TRAINER.{node}.PREC": "fp16" for node in (
    "CLAP", "CLIPADAPTER", "COCOOP", "COOP", "DMN", "IVLP", "LASP", "MAPLE", "MMADAPTER", "PRODA",
    "PROMPTSRC", "RPO", "TPT", "TaskRes", "VPT",
)}  # fmt: skip

# What another value changes: the first pattern that the key begins with counts. "refused" stands
# for keys with one legal value: a ValueError that names the key.
EFFECTS = {
    "DATALOADER.K_TRANSFORMS": {"refused"},
    "DATALOADER.SEEDING": {"items", "views"},
    "DATALOADER.TEST": {"scores"},
    "DATALOADER.TRAIN_X.SAMPLER": {"items", "refused"},
    "DATALOADER.TRAIN_X": {"items"},
    "DATASET.INCLUDE_ALL_CLASSES": {"losses"},
    "DATASET.PROMPT": {"losses"},
    "DATASET.TEMPLATES": {"losses", "scores"},
    "DATASET": {"parameters", "items", "views", "scores"},
    "INPUT.INTERPOLATION": {"views", "losses", "scores"},
    "INPUT.NO_TRANSFORM": {"refused"},
    "INPUT.SIZE": {"refused"},
    "INPUT.TEACHER_NORM": {"losses"},
    "INPUT": {"views"},
    "LOSS.NAME": {"refused"},
    "LOSS": {"losses", "scores"},
    "MODEL": {"parameters", "views", "losses", "scores", "refused"},
    "OPTIM.STEP_PER": {"rates", "refused"},
    "OPTIM.ETA_MIN": {"rates"},
    "OPTIM.GAMMA": {"rates"},
    "OPTIM.LR": {"rates"},
    "OPTIM.MAX_EPOCH": {"rates", "items"},
    "OPTIM.NEW_LAYERS": {"rates", "losses"},
    "OPTIM.STAGED_LR": {"rates"},
    "OPTIM.BASE_LR_MULT": {"rates"},
    "OPTIM.STEPSIZE": {"rates"},
    "OPTIM.WARMUP": {"rates"},
    "OPTIM": {"losses", "scores"},
    "SEED": {"items", "views", "losses", "scores"},
    "STEPS.CUTMIX": {"losses"},
    "STEPS.MODEL_SAVE": {"results", "files", "scores", "refused"},
    "STEPS.RECORDS": {"scores"},
    "STEPS": {"scores", "items"},
    "SWAD": {"scores", "results", "items"},
    "TEST.COMPUTE_CMAT": {"files"},
    "TEST.EVALUATOR": {"refused"},
    "TEST.PER_CLASS_RESULT": {"results"},
    "TEST": {"scores", "results", "refused"},
    "TRAIN.CHECKPOINT_FREQ": {"files"},
    "TRAIN.VIEWS": {"views", "scores"},
    "TRAIN.NUM_VIEWS": {"views"},
    "TRAINER.MIRO.LR_MULT": {"rates"},
    "TRAINER.TaskRes.BASE_LR": {"rates"},
    "TRAINER.COOP.CLASS_TOKEN_POSITION": {"losses", "refused"},
    "TRAINER": {"parameters", "items", "views", "losses", "scores", "results"},
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
}
NEUTRAL |= {key: "a CPU computes in fp32 and says so" for key in OTHER if key.endswith(".PREC")}
STATISTICS = dict.fromkeys(
    ("INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD"), "features have the statistics of their encoder"
)
NO_SHOTS = {"DATASET.NUM_SHOTS": "a protocol gives it to every run, also to one without shots"}
OF_STEPS = {
    "DATALOADER.TEST.BATCH_SIZE": "images of an evaluation at once",
    "MODEL.FREEZE_BN": "the student has no BatchNorm",
}
NEUTRAL_OF = {
    "FeatureTrainer": STATISTICS,
    "LinearProbe": {"SEED": "all images are fitted at once; DRAW coop leaves the draw to the set"},
    "StagedTrainer": OF_STEPS,
    "StepTrainer": OF_STEPS,
    "TPT": NO_SHOTS,
    "ZeroshotCLIP": NO_SHOTS | {"SEED": "nothing is drawn"},
}

# Keys that are not set here, with the test that sets them, or why nothing does.
ELSEWHERE = {
    "DATALOADER.NUM_WORKERS": "test_dassl_data.py, test_feature_bank.py, test_step_trainer.py",
    "DATALOADER.TRAIN_X.N_DOMAIN": "test_dassl_samplers.py",
    "DATASET.VAL_SHOTS": "test_datasets_fewshot.py",
    "DATASET.NAME": "says what the run is",
    "DATASET.ROOT": "says where the images are",
    "OUTPUT_DIR": "says where the run is",
    "RESUME": "test_engine_resume.py",
    "RUN.PROTOCOL": "test_train_cli.py",
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

# Further base runs of a trainer: pairs KEY, VALUE. Keys that are idle in the smallest run, or that
# it is too short for (LATER), and that count in one of these are set to another value there.
LATER = {
    "SWAD.N_CONVERGE",
    "SWAD.N_TOLERANCE",
    "SWAD.TOLERANCE",
    "TRAINER.TPT.COCOOP",
}
# Nine evaluations whose loss rises again, so that SWAD finds a valley.
VALLEY = (
    *("STEPS.N", "8", "STEPS.FREQ", "1", "SEED", "1", "DATASET.TRIAL_SEED", "7"),
    *("SWAD.ENABLED", "True", "SWAD.N_CONVERGE", "2", "SWAD.N_TOLERANCE", "3"),
)
CUTMIX = ("STEPS.CUTMIX_BETA", "1.0", "STEPS.CUTMIX_PROB", "1.0")
TEXT = ("TRAINER.ERM.HEAD", "text", "SEED", "3")
ALL_TRANSFORMS = (
    "INPUT.TRANSFORMS",
    "('random_crop', 'cutout', 'randaugment', 'gaussian_noise', 'colorjitter', 'randomgrayscale', "
    "'gaussian_blur', 'normalize')",
)
COCOOP_FILE = "{a checkpoint of CoCoOp}"  # stands for its path
CONTEXTS = {
    "CLIPAdapter": [  # the engine's keys, with stored features
        ("OPTIM.NAME", "adam", "OPTIM.LR_SCHEDULER", "multi_step", "OPTIM.STEPSIZE", "(1,)"),
        ("OPTIM.NAME", "rmsprop", "OPTIM.WARMUP_TYPE", "linear"),
        ("OPTIM.STAGED_LR", "True", "OPTIM.NEW_LAYERS", "('down',)"),
    ],
    "CoCoOp": [("TRAINER.COCOOP.CTX_INIT", "")],
    "CoOp": [("TRAINER.COOP.CTX_INIT", "")],
    "DMN": [
        ("TRAINER.DMN.NUM_IMPORTANT_CHANNEL", "4"),
        ("TEST.SELECT_ON", "last", "TRAINER.DMN.TEXT_PROMPT", "tip"),
    ],
    "ERM": [TEXT, ("MODEL.BACKBONE.NAME", "toy"), VALLEY, CUTMIX],
    "KgCoOp": [("TRAINER.COOP.CTX_INIT", "False")],
    "LASP": [("TRAINER.LASP.CTX_INIT", ""), ("DATASET.SUBSAMPLE_CLASSES", "base")],
    "LP": [TEXT, VALLEY, CUTMIX],
    "LPFT": [TEXT, VALLEY, CUTMIX],
    "LinearProbe": [("TEST.SELECT_ON", "last")],
    "MIRO": [VALLEY, CUTMIX],
    "NaiveKD": [VALLEY, CUTMIX],
    "ProGrad": [("TRAINER.COOP.CTX_INIT", "False")],
    "TPT": [("TRAINER.TPT.CTX_FILE", COCOOP_FILE)],
    "TaskRes": [("TRAINER.TaskRes.ENHANCED_BASE", "train", "TRAINER.TaskRes.BASE_EPOCHS", "2")],
    "TipAdapter": [("TEST.SELECT_ON", "last")],
    "VL2VADiP": [VALLEY, CUTMIX],
    "VL2VAlign": [VALLEY, CUTMIX],
    "VL2VDistill": [VALLEY, CUTMIX],
    "VL2VSD": [VALLEY, CUTMIX],
    "VPT": [  # the engine's keys, with images
        ALL_TRANSFORMS,
        ("DATALOADER.TRAIN_X.SAMPLER", "RandomClassSampler", "DATALOADER.TRAIN_X.N_INS", "2"),
    ],
}
