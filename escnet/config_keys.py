"""Every configuration key that escnet adds to Detectron2's, its default, its meaning and its source.

"paper" is ESC-Net (CVPR 2025); "measured" and "free" mark what the paper leaves open.
"""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_escnet_config(cfg: CN) -> None:
    """Add escnet's keys to a Detectron2 config, in place."""
    _add_model(cfg)
    _add_training(cfg)
    _add_inference(cfg)


def _add_model(cfg: CN) -> None:
    cfg.MODEL.META_ARCHITECTURE = "ESCNet"
    # Arithmetic of the forward pass: fp32, bf16 or fp16 (autocast; parameters stay fp32), or auto, which takes what the
    # device has instructions for: bf16, on older GPUs fp16, else fp32.
    cfg.MODEL.PRECISION = "fp32"
    # Backend of torch.compile for what is run for each class, such as inductor; "" compiles nothing. Changes speed.
    cfg.MODEL.COMPILE = ""

    cfg.MODEL.CLIP = CN()
    # A ViT of open_clip, or one of escnet/pretrained/model_configs/clip.
    cfg.MODEL.CLIP.NAME = "ViT-B-16-quickgelu"
    # An open_clip tag ("openai"), the path of a checkpoint, "shipped:clip" (of MojiScenes), or "" for random weights.
    cfg.MODEL.CLIP.WEIGHTS = "openai"
    # Height and width R to which an image is resized (paper: 384 for ViT-B/16, 336 for ViT-L/14).
    cfg.MODEL.CLIP.IMAGE_SIZE = (384, 384)
    # Attention of the last block for dense features: value (MaskCLIP), qq, kk, vv or qk (ordinary).
    cfg.MODEL.CLIP.DENSE = "value"
    # Keep that block's residual connection and MLP.
    cfg.MODEL.CLIP.DENSE_RESIDUAL = True
    # The last blocks that have such an attention beside their own (1: the last alone, in place of its own; CLIP
    # Surgery: vv in 6). More than one are a path of their own, without MLPs.
    cfg.MODEL.CLIP.DENSE_BLOCKS = 1
    # Side of the squares of cells over which CLIP's correlation maps are averaged; odd (paper: 1, none). Free.
    cfg.MODEL.CLIP.SMOOTHING = 1
    # Which weights of CLIP's image and text encoder train: none, attention (paper), qv (CAT-Seg) or all.
    cfg.MODEL.CLIP.TRAIN = "attention"

    cfg.MODEL.SAM = CN()
    # vit_b (paper), vit_l, vit_h (their decoders have one shape), moji (small, of MojiScenes) or mini (smaller).
    cfg.MODEL.SAM.NAME = "vit_b"
    # SAM block: pretrained (paper), random (ablation: trained from scratch at the full rate) or none (ablation).
    cfg.MODEL.SAM.INIT = "pretrained"
    # "official" (looked up, else fetched), the path of a checkpoint in SAM's own format, or "shipped:sam".
    cfg.MODEL.SAM.WEIGHTS = "official"
    # Which weights of a pretrained SAM block train: none, attention (paper) or all.
    cfg.MODEL.SAM.TRAIN = "attention"

    # Before training, fit the projection of CLIP's features to SAM's own on so many training images, without labels
    # (0: none, it starts at random, as in the paper). For a pretrained SAM block.
    cfg.MODEL.SAM.ALIGN_IMAGES = 0

    # Where SAM draws words (ClipThenSam, and SAM-CLIP with both heads): the share that its masks have in a score; the
    # rest is CLIP's own map. Free.
    cfg.MODEL.MASK_SHARE = 0.8

    _add_sam_clip(cfg)
    _add_guided(cfg)

    cfg.MODEL.ESC = CN()
    # What encodes images: clip (paper), or sam_clip, SAM-CLIP's backbone and CLIP head, from MODEL.SAM_CLIP.WEIGHTS.
    cfg.MODEL.ESC.BACKBONE = "clip"
    # Number of ESC blocks (paper: 4).
    cfg.MODEL.ESC.NUM_BLOCKS = 4
    # K, objects per class (paper: 5).
    cfg.MODEL.ESC.NUM_PROMPTS = 5
    # point, mask, point+mask (paper) or box.
    cfg.MODEL.ESC.PROMPTS = "point+mask"
    # Softmax that turns correlation into probability: class (over the classes) or space (over the cells). Free.
    cfg.MODEL.ESC.SOFTMAX_AXIS = "class"
    # Threshold of the region: a probability for class, a share of the peak for space. Free.
    cfg.MODEL.ESC.ALPHA = 0.5
    # k-means back end: torch, or sklearn (one map at a time; for comparison).
    cfg.MODEL.ESC.KMEANS = "torch"
    # The K masks of a class are encoded as their union, or each and averaged. Free.
    cfg.MODEL.ESC.MASK_ENCODING = "union"
    # SAM expects mask logits: +this inside the pseudo mask, -this outside. Free.
    cfg.MODEL.ESC.MASK_LOGIT = 8.0
    # How per-class features become one: correlation (weighted mean), mean or per_class (not merged). Free.
    cfg.MODEL.ESC.CLASS_MERGE = "correlation"
    # d, channels of a class embedding (128 in CAT-Seg).
    cfg.MODEL.ESC.DIM = 128
    # Where the image features enter the fusion: input (with the correlation, paper), qk (queries and keys, as in
    # CAT-Seg) or input+qk. Free.
    cfg.MODEL.ESC.GUIDANCE = "input+qk"
    # How the fusion aggregates: serial, over space and then over the classes (paper), or parallel, both from the same
    # embedding (PCA-Seg).
    cfg.MODEL.ESC.AGGREGATION = "serial"
    # Side of the squares of cells over whose mean the attention over the classes works (paper: 1; CAT-Seg: 2).
    cfg.MODEL.ESC.CLASS_POOL = 1
    # Attention heads of the fusion, and the width of its MLPs over d. Free.
    cfg.MODEL.ESC.NUM_HEADS = 4
    cfg.MODEL.ESC.MLP_RATIO = 4.0
    # Side of a Swin window in cells (12 in CAT-Seg).
    cfg.MODEL.ESC.WINDOW = 12
    # Channels of the decoder's two stages and of their skip connections (CAT-Seg's).
    cfg.MODEL.ESC.DECODER_DIMS = (64, 32)
    cfg.MODEL.ESC.SKIP_DIMS = (32, 16)
    # Passes of blocks and decoder over an image at inference; from the second on, prompts are read from the prediction
    # of the pass before, and each costs as much as the first (paper: 1).
    cfg.MODEL.ESC.PASSES = 1
    # Classes worked on at a time (-1: as many as the device does well; 0: all); changes speed and memory, never the
    # result.
    cfg.MODEL.ESC.CLASS_CHUNK = -1
    # Keep only the classes that CLIP's maps rank highest (0: all; CAT-Seg keeps 256). Not exact.
    cfg.MODEL.ESC.MAX_CLASSES = 0
    # Of these, after a first pass, keep only those that it ranks highest, so many (0: no first pass). Not exact.
    cfg.MODEL.ESC.KEEP = 0
    # Of these again, keep only those that have at least this share of some region. Not exact.
    cfg.MODEL.ESC.KEEP_SHARE = 0.0
    # But so many in any case: a model does worse over fewer than it was trained on. Not exact.
    cfg.MODEL.ESC.KEEP_LEAST = 1
    # Blocks of the first pass, which then has no decoder (0: all, and the decoder).
    cfg.MODEL.ESC.FIRST_BLOCKS = 1
    # While training, look only for the classes that an image holds and random others, so many in all (0: all). Free.
    cfg.MODEL.ESC.TRAIN_CLASSES = 0
    # At each step so many at least, and at most TRAIN_CLASSES, drawn evenly: a model that has seen any number of them
    # does not depend on how many are kept in use (0: always TRAIN_CLASSES). Free.
    cfg.MODEL.ESC.TRAIN_LEAST = 0
    # Choose them as in use instead: a first pass over so many, which CLIP's maps rank highest, chooses TRAIN_CLASSES of
    # them, none of which has to be in the image; what else is there is ignored (0: at random). Free.
    cfg.MODEL.ESC.TRAIN_FIRST = 0
    # Weight of the same loss on what that first pass says (0: off). Free.
    cfg.MODEL.ESC.FIRST_LOSS = 0.4
    # While training, compute the activations of each class chunk again in the backward pass instead of keeping them.
    cfg.MODEL.ESC.CHECKPOINT = True
    # ce: cross entropy over classes (paper); bce: binary, one-hot (CAT-Seg); ce_dice: ce plus Dice, for small classes.
    cfg.MODEL.ESC.LOSS = "ce"
    # Weight of the same loss on each block's correlation map (0: off). Free.
    cfg.MODEL.ESC.AUX_LOSS = 0.0


def _add_sam_clip(cfg: CN) -> None:
    # Of SAM-CLIP (arXiv 2310.15308), taught by MODEL.CLIP (paper: ViT-L-14, datacomp_xl_s13b_b90k) and MODEL.SAM.
    cfg.MODEL.SAM_CLIP = CN()
    # Blocks of the CLIP head, which start as the backbone's last one (paper: 3).
    cfg.MODEL.SAM_CLIP.HEAD_BLOCKS = 3
    # Most cells to a side of the grid that it looks at; a finer one is averaged (paper: 32, of 64 at 1024 px). 0: any.
    # An ESC-Net on it has the backbone's grid.
    cfg.MODEL.SAM_CLIP.HEAD_CELLS = 32
    # Channels of the two hidden layers of its MLP (0: as many as the backbone has). Free.
    cfg.MODEL.SAM_CLIP.HIDDEN_DIM = 0
    # How the feature of the image is read off the cells: max (paper) or mean.
    cfg.MODEL.SAM_CLIP.POOLING = "max"
    # Height and width to which an image is resized (paper: 448 for the CLIP head alone, 1024 for both).
    cfg.MODEL.SAM_CLIP.IMAGE_SIZE = (448, 448)
    # What makes a label map: the clip head alone, or both, its scores as prompts of the SAM head.
    cfg.MODEL.SAM_CLIP.LABEL_MAP = "clip"
    # Points drawn for a word (paper: 1 to 3), and the score that a cell has to exceed to be one (paper: 0.5).
    cfg.MODEL.SAM_CLIP.POINTS = 3
    cfg.MODEL.SAM_CLIP.SCORE = 0.5
    # A checkpoint of SAM-CLIP, or "shipped:sam_clip", for an ESC-Net that stands on it.
    cfg.MODEL.SAM_CLIP.WEIGHTS = ""
    # What an ESC-Net on it gives its SAM blocks: sam, SAM's own image embedding; clip, the CLIP head's dense features
    # through a projection, as on CLIP.
    cfg.MODEL.SAM_CLIP.SAM_INPUT = "sam"
    # What trains: head (the CLIP head; stages 1 and 3), all (backbone and SAM's mask decoder too; stage 2) or none.
    cfg.MODEL.SAM_CLIP.TRAIN = "head"


def _add_guided(cfg: CN) -> None:
    # Of CLIP-Guided SAM (arXiv 2605.24807): MODEL.CLIP's words inside the image encoder of MODEL.SAM.
    cfg.MODEL.GUIDED = CN()
    # Side of the square images of SAM (paper: 1024, SAM's own; 0: that of MODEL.SAM).
    cfg.MODEL.GUIDED.IMAGE_SIZE = 0
    # Adapters of SAM's blocks: plain, on the output of attention, in all of them; semantic, beside the MLP.
    cfg.MODEL.GUIDED.ADAPTERS = ("plain", "semantic")
    # Blocks with a semantic adapter: () all (paper), or numbers as Python counts: (-4, -3, -2, -1) are the last four.
    cfg.MODEL.GUIDED.BLOCKS = ()
    # Channels of an adapter's hidden layer, as a share of the encoder's (paper: a quarter).
    cfg.MODEL.GUIDED.BOTTLENECK = 0.25
    # Factor of what an adapter says (published code: 0.5).
    cfg.MODEL.GUIDED.SCALE = 1.0
    # Adapters begin with nothing to say, so that the model begins as SAM (published code: False).
    cfg.MODEL.GUIDED.ZERO_START = True
    # A plain adapter adds its input too (published code: True).
    cfg.MODEL.GUIDED.INNER_SKIP = False
    # What of CLIP enters semantic adapters: text, vision (its dense features) and similarity (of both), or some.
    cfg.MODEL.GUIDED.SIGNALS = ("text", "vision", "similarity")
    # Dense features are divided by their norm over the channels of each cell (channels, a cosine), or over all cells of
    # each channel (cells, published code).
    cfg.MODEL.GUIDED.NORM = "channels"
    # Subtract from a word's feature that of its templates without a word, and normalise again: what all words have in
    # common is not looked for.
    cfg.MODEL.GUIDED.SUBTRACT_EMPTY = False
    # CLIP sees pixels with its own mean and deviation (clip), or with SAM's (sam, published code).
    cfg.MODEL.GUIDED.CLIP_PIXELS = "clip"
    # LoRA of that rank on query, key and value of SAM's encoder, by PEFT (0: none). For comparison.
    cfg.MODEL.GUIDED.LORA = 0
    # Prompts that are read off the similarity, stretched to 0..1: so many points (paper: 5), drawn evenly from what is
    # above the threshold (paper: 0.8), which is the mask prompt too.
    cfg.MODEL.GUIDED.POINTS = 5
    cfg.MODEL.GUIDED.THRESHOLD = 0.8
    cfg.MODEL.GUIDED.MASK_PROMPT = True
    # Its logits outside and inside (published code: 0 and 255).
    cfg.MODEL.GUIDED.MASK_LEVELS = (0.0, 255.0)
    # Seed of the points in use, and how many times they are drawn, whose masks are averaged.
    cfg.MODEL.GUIDED.POINT_SEED = 0
    cfg.MODEL.GUIDED.POINT_DRAWS = 1
    # What says that a word is there: quality (the IoU that SAM expects), clip (of the whole image), inside (CLIP's
    # probability inside the mask); several multiply. Free: the paper asks for words that are there.
    cfg.MODEL.GUIDED.PRESENCE = ("inside",)
    # Ask only for the words that CLIP's maps rank highest (0: all). Not exact.
    cfg.MODEL.GUIDED.MAX_WORDS = 0
    # Words in SAM at a time (0: all); changes speed and memory, never the result.
    cfg.MODEL.GUIDED.WORD_CHUNK = 4
    # What trains beside CLIP (MODEL.CLIP.TRAIN, of its image encoder): adapters, mask_decoder and prompt_encoder.
    cfg.MODEL.GUIDED.TRAIN = ("adapters", "mask_decoder", "prompt_encoder")
    # While training, compute the activations of each block again in the backward pass instead of keeping them.
    cfg.MODEL.GUIDED.CHECKPOINT = True


def _add_training(cfg: CN) -> None:
    # Paper: AdamW, 2e-4; 2e-6 for the attention of CLIP and of the SAM blocks.
    cfg.SOLVER.BASE_LR = 2e-4
    cfg.SOLVER.CLIP_MULTIPLIER = 0.01
    cfg.SOLVER.SAM_MULTIPLIER = 0.01
    cfg.SOLVER.WEIGHT_DECAY = 1e-4
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.0
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.MAX_ITER = 80000
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    cfg.SOLVER.WARMUP_ITERS = 0
    # The norm of all gradients together is clipped to CLIP_VALUE (CAT-Seg: 0.01).
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.01

    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN = (384, 448, 512, 576, 640)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.INPUT.MAX_SIZE_TRAIN = 2560
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = (384, 384)
    # A crop in which one class covers more than this share is drawn again.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # Brightness, contrast, saturation and hue.
    cfg.INPUT.COLOR_AUG_SSD = True
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    # Prompt templates of the class names while training: single, imagenet (80), a template or a list of them.
    cfg.INPUT.TEMPLATES = "single"
    # Class names while training: original (as published, of synonyms the first) or clean (plain English, synonyms).
    cfg.INPUT.CLASS_NAMES = "original"
    cfg.SEED = 0

    # What is trained: segmentation (pixels of DATASETS.TRAIN), promptable (a mask for each word of them) or
    # distillation; the keys of the two last below.
    cfg.TASK = "segmentation"
    _add_promptable(cfg)
    _add_labelled(cfg)
    _add_distillation(cfg)


def _add_promptable(cfg: CN) -> None:
    cfg.PROMPTABLE = CN()
    # What a model is given beside the word: text (nothing: it makes its own prompts), points (so many on the object),
    # boxes, or mixed, one of them for each mask.
    cfg.PROMPTABLE.PROMPTS = "text"
    cfg.PROMPTABLE.POINTS = 5
    # Words of each image of a batch, drawn from those that it holds (CLIP-Guided SAM: 1).
    cfg.PROMPTABLE.WORDS = 1
    # Share of them that it does not hold, whose mask is empty (CLIP-Guided SAM: 0).
    cfg.PROMPTABLE.NEGATIVES = 0.0
    # Weights of binary cross entropy, Dice loss, soft IoU loss, and the error of the expected IoU.
    cfg.PROMPTABLE.BCE_WEIGHT = 1.0
    cfg.PROMPTABLE.DICE_WEIGHT = 1.0
    cfg.PROMPTABLE.IOU_WEIGHT = 1.0
    cfg.PROMPTABLE.QUALITY_WEIGHT = 0.0


def _add_labelled(cfg: CN) -> None:
    # Training on few labelled images of DATASETS.TRAIN: so many (1 or more), or such a share of them (below 1; 0: all).
    cfg.LABELLED = CN()
    cfg.LABELLED.IMAGES = 0.0
    # Which ones (-1: as SEED says); the list is written to OUTPUT_DIR/labelled.json.
    cfg.LABELLED.SEED = 0
    # Share of them that is kept from training, to choose among the weights of the training (0: none, the last are
    # taken), and how often they are looked at, in iterations.
    cfg.LABELLED.VALIDATION = 0.0
    cfg.LABELLED.PERIOD = 100
    # The training ends once so many looks in a row have found nothing better (0: it goes on to SOLVER.MAX_ITER).
    cfg.LABELLED.PATIENCE = 0
    # The weights that a training begins with may be the best ones too, and are then its result.
    cfg.LABELLED.KEEP_START = False


def _add_distillation(cfg: CN) -> None:
    # Teachers are MODEL.CLIP and MODEL.SAM; each has shards of its own, and one without shards does not teach.
    cfg.DISTILL = CN()
    # none: 1 - cosine for CLIP, masks for SAM (paper); phi_s or angle: features of both teachers, balanced by their
    # spread, which is taken of so many images of each.
    cfg.DISTILL.BALANCE = "none"
    cfg.DISTILL.STATISTICS_IMAGES = 1024
    # Images of a backward pass of CLIP's (0: all of a batch): what a batch has more is accumulated.
    cfg.DISTILL.MICRO_BATCH = 0
    # The largest share of broken samples; more of them stop the training.
    cfg.DISTILL.BROKEN_SHARE = 0.01

    cfg.DISTILL.CLIP = CN()
    # Folders or lists of shards ("shards/{000..123}.tar"), absolute, URLs, or below the folder of all datasets.
    cfg.DISTILL.CLIP.SHARDS = ()
    # Side of the student's images, one of which each step draws (paper: 224, 448; in stage 3 1024 too).
    cfg.DISTILL.CLIP.SIZES = (224, 448)
    # Images of a step at the smallest size, of all processes together (paper: 2048); of larger ones as many fewer.
    cfg.DISTILL.CLIP.BATCH_SIZE = 2048
    # Side of the teacher's images.
    cfg.DISTILL.CLIP.TEACHER_SIZE = 224
    # Name of embeddings that tools/embed_teacher.py stored beside the shards, in place of the teacher; no augmentation.
    cfg.DISTILL.CLIP.EMBEDDINGS = ""
    # Random crops and flips.
    cfg.DISTILL.CLIP.AUGMENT = True
    cfg.DISTILL.CLIP.WEIGHT = 1.0
    # Weight of the teacher's dense features (MODEL.CLIP.DENSE), where the feature of the image has 1 (paper: 0).
    cfg.DISTILL.CLIP.DENSE_WEIGHT = 0.0

    cfg.DISTILL.SAM = CN()
    # Likewise, of images with masks.
    cfg.DISTILL.SAM.SHARDS = ()
    # Side of the student's images (paper: 1024); the teacher's have its own.
    cfg.DISTILL.SAM.SIZES = (1024,)
    # Images of a step, of all processes together, and masks of each (paper: 32 and 32).
    cfg.DISTILL.SAM.BATCH_SIZE = 32
    cfg.DISTILL.SAM.MASKS = 32
    # Images of a backward pass of SAM's (0: as DISTILL.MICRO_BATCH).
    cfg.DISTILL.SAM.MICRO_BATCH = 0
    # Most predictions for a mask: after the first, clicks where the last one is wrong (paper: 1). Free.
    cfg.DISTILL.SAM.ROUNDS = 1
    # Weight of the focal loss, where the Dice loss has 1 (SAM: 20), and of the error of the expected IoU (paper: 0).
    cfg.DISTILL.SAM.FOCAL_WEIGHT = 20.0
    cfg.DISTILL.SAM.QUALITY_WEIGHT = 0.0
    # Lambda (paper: 10).
    cfg.DISTILL.SAM.WEIGHT = 10.0


def _add_inference(cfg: CN) -> None:
    # Prompt templates of the class names at evaluation and prediction, likewise.
    cfg.TEST.TEMPLATES = "single"
    # Class names at evaluation: original (the literature's numbers) or clean.
    cfg.TEST.CLASS_NAMES = "original"
    # Return the (N, H, W) scores as well as the labels; they need N·H·W·4 bytes an image.
    cfg.TEST.FULL_SCORES = False
    # Sliding window: the image is resized to SIZE, cut into WINDOWs that overlap by at least this share, below 1, and
    # averaged with a whole-image pass.
    cfg.TEST.SLIDING = CN()
    cfg.TEST.SLIDING.ENABLED = False
    cfg.TEST.SLIDING.SIZE = (640, 640)
    cfg.TEST.SLIDING.WINDOW = (384, 384)
    cfg.TEST.SLIDING.OVERLAP = 1.0 / 3.0
