"""DenseClip and ClipThenSam against hand-worked maps, with tiny models and a SAM that draws what it is told."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.config import add_escnet_config
from escnet.layers.clip_image_encoder import ClipFeatures
from escnet.layers.pseudo_prompts import PseudoPromptGenerator
from escnet.meta_arch.clip_then_sam import ClipThenSam
from escnet.meta_arch.interfaces import InferenceOptions, SegmentingModel
from escnet.meta_arch.sam import sam_features
from escnet.meta_arch.segmentation import Segmentation
from escnet.meta_arch.sliding_window import SlidingWindow
from escnet.pretrained.sam import build_sam
from escnet.vocabulary import Vocabulary

BASELINES = ("DenseClip", "ClipThenSam")
CONFIGS = Path(__file__).parents[2] / "configs"


def mini_config(architecture: str) -> CfgNode:
    cfg = get_cfg()
    add_escnet_config(cfg)
    cfg.merge_from_file(str(CONFIGS / "camvid" / "escnet.yaml"))
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.CLIP.IMAGE_SIZE = (32, 48)
    cfg.MODEL.ESC.ALPHA = 0.3
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def mini_model(architecture: str, seed: int = 0) -> SegmentingModel:
    torch.manual_seed(seed)
    return build_model(mini_config(architecture)).eval()


@torch.no_grad()
def segment_image(model: SegmentingModel, image: Tensor, vocabulary: Vocabulary) -> Segmentation:
    return model.segment(model.encode(image), vocabulary)


@pytest.fixture(scope="module")
def models() -> dict[str, SegmentingModel]:
    return {name: mini_model(name) for name in BASELINES}


@pytest.fixture
def photograph() -> Tensor:
    return torch.randint(0, 256, (3, 40, 56), generator=torch.Generator().manual_seed(1)).float()


@pytest.mark.parametrize("name", BASELINES)
def test_nothing_trains(models: dict[str, SegmentingModel], name: str, photograph: Tensor) -> None:
    assert not any(p.requires_grad for p in models[name].parameters())
    model = mini_model(name).train()
    inputs = {"image": photograph, "sem_seg": torch.zeros(40, 56, dtype=torch.long), "vocabulary": Vocabulary(["cat"])}
    with pytest.raises(TypeError, match=f"{name} has nothing to train"):
        model([inputs])


@pytest.mark.parametrize("name", BASELINES)
def test_same_model_answers_two_vocabularies_in_turn(
    models: dict[str, SegmentingModel], name: str, photograph: Tensor
) -> None:
    first, second = Vocabulary(["cat", "grass", "sky"]), Vocabulary(["road", "sea, ocean"], background=["wall", "door"])
    turns = [models[name]([{"image": photograph, "vocabulary": v}])[0] for v in (first, second, first)]
    fresh = mini_model(name)([{"image": photograph, "vocabulary": second}])[0]
    torch.testing.assert_close(turns[0]["scores"], turns[2]["scores"])
    torch.testing.assert_close(turns[1]["scores"], fresh["scores"])
    assert torch.equal(turns[1]["labels"], fresh["labels"])
    assert not torch.allclose(turns[0]["scores"], turns[1]["scores"])
    assert turns[1]["labels"].max() < second.num_classes


def test_dense_clip_is_similarity_resized(models: dict[str, SegmentingModel], photograph: Tensor) -> None:
    model, vocabulary = models["DenseClip"], Vocabulary(["cat", "grass", "sky", "a red car"])
    output = model([{"image": photograph, "vocabulary": vocabulary, "height": 30, "width": 70}])[0]

    small = F.interpolate(photograph[None], (32, 48), mode="bilinear", antialias=True)
    dense = model.clip_image(model.normalise(small)).dense
    similarity = torch.einsum("bdhw,nd->bnhw", dense, model.clip_text(vocabulary))
    logits = F.interpolate(similarity * model.logit_scale, (30, 70), mode="bilinear", align_corners=False)[0]
    assert output["labels"].shape == (30, 70)
    chosen = logits.gather(0, output["labels"][None])[0]
    torch.testing.assert_close(chosen, logits.amax(dim=0), rtol=0, atol=1e-4)
    assert output["labels"].unique().numel() > 1

    correlation = segment_image(model, photograph, vocabulary).correlations[0]
    torch.testing.assert_close(correlation, similarity, rtol=0, atol=1e-5)


def test_max_classes_does_not_apply() -> None:
    cfg = mini_config("DenseClip")
    cfg.MODEL.ESC.MAX_CLASSES = 2
    segmentation = segment_image(build_model(cfg).eval(), torch.zeros(3, 32, 48), Vocabulary(list("abcde")))
    assert segmentation.rows is None
    assert segmentation.logits.shape[1] == 5


class PlantedImageEncoder(nn.Module):
    """A CLIP image encoder that has seen it all before: the dense features are given."""

    def __init__(self, dense: Tensor) -> None:
        super().__init__()
        self.register_buffer("dense", dense)

    def forward(self, images: Tensor, pooled: bool = True) -> ClipFeatures:
        return ClipFeatures(self.dense.expand(len(images), -1, -1, -1), [], None)


class OneHotTextEncoder(nn.Module):
    """With one-hot words, the dense features are the correlation map."""

    def encode(self, vocabulary: Vocabulary) -> Tensor:
        return torch.eye(len(vocabulary.rows))


class PlantedMaskDecoder(nn.Module):
    """A mask decoder that draws given masks, in the order of the prompts, and remembers these."""

    def __init__(self, masks: Tensor) -> None:
        super().__init__()
        self.masks = masks
        self.sparse: list[Tensor] = []
        self.dense: list[Tensor] = []

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        assert not multimask_output
        start = sum(map(len, self.sparse))
        self.sparse.append(sparse_prompt_embeddings)
        self.dense.append(dense_prompt_embeddings)
        masks = self.masks[start : start + len(sparse_prompt_embeddings), None]
        return masks, torch.ones(len(masks), 1)


def planted_model(probability: Tensor, masks: Tensor, prompt_chunk: int = 16) -> ClipThenSam:
    """CLIP's probability (N, 4, 4) and SAM's mask logits (P, 64, 64) are given; one object for each class."""
    sam = build_sam("mini", "")
    sam.mask_decoder = PlantedMaskDecoder(masks)
    model = ClipThenSam(
        clip_image=PlantedImageEncoder(probability.log()[None] / 10),
        clip_text=OneHotTextEncoder(),
        logit_scale=10.0,
        inference=InferenceOptions((32, 32)),
        sam=sam,
        generator=PseudoPromptGenerator(num_prompts=1, alpha=0.5),
        mask_logit=8.0,
        prompt_chunk=prompt_chunk,
    )
    return model.eval()


def left_and_right() -> Tensor:
    """Class 0 has 0.9 of the left half and 0.1 of the right, class 1 what is left of it; class 2 next to nothing."""
    left = torch.tensor([0.9, 0.9, 0.1, 0.1]).expand(4, 4)
    return torch.stack([left, 0.9999 - left, torch.full((4, 4), 0.0001)])


@pytest.mark.parametrize("prompt_chunk", [1, 16])
def test_hand_worked_masks(prompt_chunk: int) -> None:
    # SAM draws class 0 over three quarters of the width, and nothing for class 1. Class 2 wins no cell: no prompt.
    masks = torch.full((2, 64, 64), -4.0)
    masks[0, :, :48] = 4.0
    model = planted_model(left_and_right(), masks, prompt_chunk)
    vocabulary = Vocabulary(["cat", "grass", "sky"])
    logits = segment_image(model, torch.zeros(3, 20, 20), vocabulary).logits[0]

    assert sum(map(len, model.sam.mask_decoder.sparse)) == 2
    # CLIP's word for class 0 on 16 columns, and its mean over the first 12, which the mask has.
    first = torch.tensor(6 * [0.9] + [0.8, 0.6, 0.4, 0.2] + 6 * [0.1])
    mean = (5.4 + 2.0 + 0.2) / 12
    mask = torch.tensor(12 * [1 / (1 + math.exp(-4))] + 4 * [1 / (1 + math.exp(4))])
    expected = torch.stack([0.2 * first + 0.8 * mean * mask, 0.2 * (0.9999 - first), 0.2 * torch.full((16,), 0.0001)])
    torch.testing.assert_close(logits.exp(), expected[:, None].expand(-1, 16, -1), rtol=1e-4, atol=1e-7)

    model = planted_model(left_and_right(), masks, prompt_chunk)
    labels = model([{"image": torch.zeros(3, 20, 20), "vocabulary": vocabulary, "height": 16, "width": 16}])
    assert torch.equal(labels[0]["labels"], (torch.arange(16) >= 12).long().expand(16, 16))


def test_overlapping_masks_go_to_the_better_score() -> None:
    masks = torch.full((2, 64, 64), -4.0)
    masks[0] = 4.0  # class 0 everywhere: CLIP gives it (0.9 + 0.1) / 2 there
    masks[1, :, 32:] = 4.0  # class 1 in its own half, of which CLIP gives it more
    logits = segment_image(
        planted_model(left_and_right(), masks), torch.zeros(3, 20, 20), Vocabulary(list("abc"))
    ).logits
    assert torch.equal(logits[0].argmax(dim=0), (torch.arange(16) >= 8).long().expand(16, 16))
    torch.testing.assert_close(logits[0, 0, 0, 0].exp(), torch.tensor(0.2 * 0.9 + 0.8 * 0.5 / (1 + math.exp(-4))))


def test_prompts_stand_on_the_same_ground_in_both_grids() -> None:
    probability = left_and_right()
    probability[0, 3, 1], probability[1, 3, 1] = 0.95, 0.0499  # the peak of class 0: row 3, column 1
    model = planted_model(probability, torch.zeros(2, 64, 64))
    segment_image(model, torch.zeros(3, 20, 20), Vocabulary(["cat", "grass", "sky"]))
    encoder, decoder = model.sam.prompt_encoder, model.sam.mask_decoder

    middle = torch.tensor([[[1.5 / 4, 3.5 / 4]]])
    point = encoder.pe_layer.forward_with_coords(middle, (1, 1))[0, 0] + encoder.point_embeddings[1].weight[0]
    torch.testing.assert_close(decoder.sparse[0][0, 0], point, rtol=1e-4, atol=1e-4)

    mask = torch.full((1, 1, 64, 64), -8.0)
    mask[..., :32] = 8.0
    # The decoder adds the dense prompts to the image, which therefore comes with them.
    image = sam_features(model.sam, torch.zeros(1, 3, 20, 20))
    torch.testing.assert_close(decoder.dense[0][:1] - image, encoder.mask_downscaling(mask), rtol=1e-4, atol=1e-4)


def test_sam_sees_the_image_itself(models: dict[str, SegmentingModel]) -> None:
    model, seen = models["ClipThenSam"], []
    hook = model.sam.image_encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image = torch.randint(0, 256, (3, 128, 128)).float()
    segment_image(model, image, Vocabulary(["cat", "grass"]))
    hook.remove()
    mean, deviation = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    torch.testing.assert_close(seen[0][0], (image - mean.view(-1, 1, 1)) / deviation.view(-1, 1, 1))


def test_batch_equals_images_alone(models: dict[str, SegmentingModel]) -> None:
    model, vocabulary = models["ClipThenSam"], Vocabulary(["cat", "grass", "sky"])
    images = torch.randint(0, 256, (2, 3, 32, 48), generator=torch.Generator().manual_seed(2))
    together = segment_image(model, images, vocabulary).logits
    alone = torch.cat([segment_image(model, image, vocabulary).logits for image in images])
    assert together.shape == (2, 3, 16, 24)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_lower_precision_runs() -> None:
    cfg = mini_config("ClipThenSam")
    cfg.MODEL.PRECISION = "bf16"
    output = build_model(cfg).eval()([{"image": torch.zeros(3, 32, 48), "vocabulary": Vocabulary(["cat", "sky"])}])
    assert output[0]["scores"].isfinite().all()


def test_what_clip_then_sam_cannot_do_is_refused() -> None:
    cfg = mini_config("ClipThenSam")
    cfg.TEST.SLIDING.ENABLED = True
    with pytest.raises(ValueError, match=r"TEST\.SLIDING\.ENABLED"):
        build_model(cfg)
    cfg = mini_config("ClipThenSam")
    cfg.MODEL.SAM.INIT = "none"
    with pytest.raises(ValueError, match=r"MODEL\.SAM\.INIT is 'none'"):
        build_model(cfg)


def test_dense_clip_slides() -> None:
    cfg = mini_config("DenseClip")
    cfg.TEST.SLIDING.ENABLED, cfg.TEST.SLIDING.SIZE, cfg.TEST.SLIDING.WINDOW = True, (64, 96), (32, 48)
    model = build_model(cfg).eval()
    assert model.inference.sliding == SlidingWindow((64, 96), (32, 48))
    output = model([{"image": torch.zeros(3, 50, 60), "vocabulary": Vocabulary(["cat", "sky"])}])
    assert output[0]["labels"].shape == (50, 60)


@pytest.mark.parametrize(
    ("file", "architecture"), [("dense_clip_vitb16", "DenseClip"), ("clip_then_sam_vitb16", "ClipThenSam")]
)
def test_full_size_configs(file: str, architecture: str) -> None:
    cfg = get_cfg()
    add_escnet_config(cfg)
    cfg.merge_from_file(str(CONFIGS / "escnet" / f"{file}.yaml"))
    assert architecture == cfg.MODEL.META_ARCHITECTURE
    assert cfg.MODEL.CLIP.NAME == "ViT-B-16-quickgelu"
