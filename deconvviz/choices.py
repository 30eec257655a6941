"""Every set of words that an option takes, once: commands offer them, functions check them, types name them.

Nothing is imported here but typing, so that `deconvviz --help` answers at once.
"""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["fp32", "tf32", "bf16", "fp64"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TRAINING_PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")  # weights stay fp32

# --- images ---
Fit = Literal["cover", "contain", "stretch"]  # how an image meets the size that it is resized to
FITS: tuple[Fit, ...] = get_args(Fit)
INTERPOLATIONS_OF_IMAGES = ("nearest", "bilinear", "bicubic")  # where images are resized

# --- projections and layer figures ---
Rule = Literal[
    "deconvnet",
    "guided",
    "gradient",
    "gradient-x-input",
    "lrp-epsilon",
    "lrp-gamma",
    "lrp-zplus",
    "lrp-composite",
]
RULES: tuple[Rule, ...] = get_args(Rule)
RULE_CHOICES = ("auto", *RULES)  # auto: for each layer the rule that shows it best
RELEVANCE_RULES = ("lrp-composite", "lrp-epsilon", "lrp-gamma", "lrp-zplus", "gradient-x-activation")
CONTROLS = ("nearest", "noise")  # of fidelity: they rank pixels without looking at the network
CHANNEL_CHOICES = ("active", "random", "first")
CROPS = ("need", "each", "energy", "receptive-field")  # of the patches, beside a number of pixels
FIDELITY_FILLS = ("mean", "blur")  # of pixels that are taken away
OVERLAPS = ("sum", "last")  # where pooling windows overlap
LRN_POLICIES = ("identity", "gradient")  # contrast normalisation on the way back
BOX_LAYOUTS = ("auto", "detections", "v5", "v8", "v10")  # how a detector returns its boxes
SEEDS = ("one", "activation")  # the signal that starts at the unit

# --- explanations and their metrics ---
CONVENTIONS = ("paper", "pytorch-grad-cam", "torch-cam")
EXPLAINED = ("top", "label")
MASK_FILLS = ("mean", "black")
RANDOMISATIONS = ("cascading", "independent")  # of the weights
SANITY_CHECKS = (*RANDOMISATIONS, "labels")  # labels: of the data that a network is trained on
REMOVAL_ORDERS = ("most", "least")  # relevant pixels first
METRIC_GROUPS = (
    "faithfulness",
    "adcc",
    "curves",
    "road",
    "localisation",
    "crop",
    "infidelity",
    "sensitivity",
    "sparseness",
    "random-logit",
)

# How a network's output becomes probabilities; "auto" tells it by the width, the last op and the values
OUTPUTS = ("auto", "softmax", "sigmoid", "probabilities", "log-probabilities")

# --- occlusion ---
OCCLUDER_FILLS = ("grey", "mean", "black", "blur", "noise")
BORDERS = ("flush", "beyond")
STRONGEST = ("max", "sum")

# --- invariance ---
TRANSFORMS = ("translate-y", "translate-x", "scale", "rotation")
PADDINGS = ("reflect", "mean", "border")
INTERPOLATIONS = ("bilinear", "bicubic")

# --- correspondence ---
SIGN_ZERO = ("three-valued", "drop", "positive")
NORMALISATIONS = ("mean", "sum")
RANDOM_PLACES = ("picture", "object")

# --- pictures by optimisation ---
Wanted = Literal["channel", "unit", "class", "direction", "cosine", "dream"]  # what a picture is to make large
OBJECTIVES: tuple[Wanted, ...] = get_args(Wanted)
CANVASES = ("spectral", "pixels", "phase")  # what an optimiser changes

# --- features and probes ---
FEATURE_DTYPES = ("float32", "float16")  # of the values in a features file

# --- maps of one image ---
MAP_ORDERS = ("maximum", "energy", "index")
MAP_SCALES = ("own", "common")

# --- directions of a layer's channels ---
DIRECTIONS = ("nmf", "pca")

# --- heads of networks that are trained ---
HEADS = ("new", "gap", "max", "lse", "wildcat")  # another last layer; or one that pools the last maps

# --- lesions and variants ---
LESION_UNITS = ("filter", "layer")
LESION_VALUES = ("zero", "mean")
FIRST_LAYERS = ("zfnet", "alexnet")
OBJECTIVE_NAMES = ("simclr", "barlow-twins", "swav")  # of trainings without labels

# --- relevance ---
RELEVANCE_TABLES = ("relevance", "activation")  # by which a channel's images are ranked

# --- diagnosis ---
Severity = Literal["note", "warning", "serious"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)  # the mildest first
# --- trees over classes ---
NODE_SCORES = ("mean", "sum")  # the score of a node: the mean of its classes', or that of their summed probability

# --- attacks ---
ATTACK_LOSSES = ("cross-entropy", "margin")  # what an attack raises
KEY_POINT_ATTACKS = ("sparse", "sparse-convolution")  # that change the fewest pixels
PRUNED_RESULTS = ("slim", "masked")
GOALS = ("decision", "both", "explanation")  # what an attack is to change: "both" is the decision under an unmoved map
EDGES = ("none", "weights", "threshold")  # where it may change pixels: AdvEdge and AdvEdge+
EDGE_STAGES = ("first", "both")  # of an attack on explanations in which edges hold
TOWARDS = ("away", "corner", "mirror")  # where a map moves that is attacked alone
