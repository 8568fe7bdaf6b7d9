"""ESC-Net as a whole, with the mini configuration: vocabularies, gradients, ablations, windows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import Tensor
from torch.nn import functional as F

from escnet import Vocabulary
from escnet.config import add_escnet_config
from escnet.meta_arch.esc_net import ESCNet
from escnet.meta_arch.interfaces import SegmentingModel
from escnet.meta_arch.segmentation import Segmentation
from escnet.meta_arch.sliding_window import window_starts

CONFIG = Path(__file__).parents[2] / "configs" / "camvid" / "escnet.yaml"
WORDS = Vocabulary(["sky", "road", "tree", "car", "house"])


def make_config(*opts) -> CfgNode:
    cfg = get_cfg()
    add_escnet_config(cfg)
    cfg.merge_from_file(str(CONFIG))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.CLIP.IMAGE_SIZE", (48, 64), "MODEL.ESC.WINDOW", 4, *opts])
    return cfg


def make_model(*opts) -> ESCNet:
    torch.manual_seed(0)
    model = build_model(make_config(*opts)).eval()
    for block in model.blocks:  # as after some training: the refined maps differ from the given ones
        torch.nn.init.normal_(block.fusion.change.weight, std=0.5)
    return model


@torch.no_grad()
def segment_image(model: SegmentingModel, image: Tensor, vocabulary: Vocabulary) -> Segmentation:
    return model.segment(model.encode(image), vocabulary)


def make_input(size: tuple[int, int] = (48, 64), **more) -> dict:
    torch.manual_seed(1)
    return {"image": torch.randint(0, 256, (3, *size)), **more}


def training_batch(vocabulary: Vocabulary = WORDS) -> list[dict]:
    torch.manual_seed(2)
    targets = torch.randint(-1, len(vocabulary.rows), (2, 48, 64))
    return [make_input(sem_seg=target, vocabulary=vocabulary) for target in targets]


def test_output_has_the_wanted_size():
    out = make_model()([make_input((30, 50), height=61, width=47, vocabulary=WORDS)])[0]
    assert out["labels"].shape == out["scores"].shape == (61, 47)
    assert out["labels"].dtype == torch.long
    assert ((out["scores"] > 0) & (out["scores"] <= 1)).all()


def test_builds_from_plain_arguments_too():
    arguments = ESCNet.from_config(make_config())
    model = ESCNet(**arguments).eval()
    assert model([make_input()], WORDS)[0]["labels"].shape == (48, 64)


def test_one_model_answers_two_vocabularies_in_turn():
    model = make_model()
    other = Vocabulary(["cup", "spoon", "plate"])
    first = segment_image(model, make_input()["image"], WORDS).logits
    second = segment_image(model, make_input()["image"], other).logits
    assert torch.equal(segment_image(model, make_input()["image"], WORDS).logits, first)
    fresh = make_model()
    torch.testing.assert_close(segment_image(fresh, make_input()["image"], other).logits, second)


def test_permuting_the_vocabulary_permutes_the_logits():
    model = make_model()
    order = [3, 0, 4, 1, 2]
    logits = segment_image(model, make_input()["image"], WORDS).logits
    permuted = segment_image(model, make_input()["image"], Vocabulary([WORDS.names[i] for i in order])).logits
    torch.testing.assert_close(permuted, logits[:, order], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_do_not_change_the_logits(chunk):
    whole = segment_image(make_model(), make_input()["image"], WORDS).logits
    chunked = segment_image(make_model("MODEL.ESC.CLASS_CHUNK", chunk), make_input()["image"], WORDS).logits
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=1e-5)


def test_background_words_share_one_label():
    model = make_model("TEST.FULL_SCORES", True)
    words = Vocabulary(["sky", "road"], background=["tree", "car", "house"])
    plain = model([make_input()], WORDS)[0]
    with_background = model([make_input()], Vocabulary(["sky", "road", "tree", "car", "house"]))[0]
    out = model([make_input()], words)[0]
    rows = segment_image(model, make_input()["image"], Vocabulary(["sky", "road", "tree", "car", "house"])).logits[0]
    expected = F.interpolate(rows[None], (48, 64), mode="bilinear")[0].argmax(0).clamp(max=2)
    assert torch.equal(out["labels"], expected)
    assert out["sem_seg"].shape == (3, 48, 64)
    torch.testing.assert_close(out["sem_seg"][2], with_background["sem_seg"][2:].amax(0))
    assert plain["sem_seg"].shape == (5, 48, 64)


def test_pruning_keeps_the_most_correlated_classes():
    model = make_model("MODEL.ESC.MAX_CLASSES", 2)
    segmentation = segment_image(model, make_input()["image"], WORDS)
    assert segmentation.logits.shape[1] == 2 and segmentation.rows.shape == (1, 2)
    full = segment_image(make_model(), make_input()["image"], WORDS).correlations[0]
    peak = (full * model.logit_scale).softmax(1).amax((2, 3))[0]
    assert set(segmentation.rows[0].tolist()) == set(peak.topk(2).indices.tolist())
    labels = model([make_input()], WORDS)[0]["labels"]
    assert set(labels.unique().tolist()) <= set(segmentation.rows[0].tolist())


def test_keeping_all_classes_changes_nothing():
    kept = segment_image(make_model("MODEL.ESC.MAX_CLASSES", 5), make_input()["image"], WORDS)
    torch.testing.assert_close(kept.logits, segment_image(make_model(), make_input()["image"], WORDS).logits)


@torch.no_grad()
def test_a_second_pass_reads_its_prompts_from_the_prediction_of_the_first():
    image = make_input()["image"]
    once, twice, thrice = (segment_image(make_model("MODEL.ESC.PASSES", n), image, WORDS) for n in (1, 2, 3))
    model = make_model()
    first = model.generator(once.correlations[0], model.logit_scale)
    assert torch.equal(once.prompts[0].assignment, first.assignment)
    expected = model.generator(F.avg_pool2d(once.logits, 4), 1.0)
    for prompts in twice.prompts:
        assert torch.equal(prompts.assignment, expected.assignment)
    assert len(twice.prompts) == len(model.blocks) and len(twice.correlations) == len(model.blocks) + 1
    assert torch.equal(twice.correlations[0], once.correlations[0])
    assert not torch.allclose(twice.logits, once.logits, atol=1e-4)
    assert torch.equal(thrice.prompts[0].assignment, model.generator(F.avg_pool2d(twice.logits, 4), 1.0).assignment)


@torch.no_grad()
def test_without_sam_further_passes_change_nothing():
    image = make_input()["image"]
    once, twice = (
        segment_image(make_model("MODEL.SAM.INIT", "none", "MODEL.ESC.PASSES", n), image, WORDS) for n in (1, 2)
    )
    assert torch.equal(once.logits, twice.logits)


def test_a_window_as_large_as_the_image_is_the_whole_image():
    plain = make_model()
    sliding = make_model("TEST.SLIDING.ENABLED", True, "TEST.SLIDING.SIZE", (48, 64), "TEST.SLIDING.WINDOW", (48, 64))
    expected = segment_image(plain, make_input()["image"], WORDS).logits.softmax(1)
    torch.testing.assert_close(
        segment_image(sliding, make_input()["image"], WORDS).logits.softmax(1), expected, atol=1e-5, rtol=1e-4
    )


def test_windows_are_averaged_with_the_whole_image():
    model = make_model("TEST.SLIDING.ENABLED", True, "TEST.SLIDING.SIZE", (48, 96), "TEST.SLIDING.WINDOW", (48, 64))
    image = make_input((48, 96))["image"]
    logits = segment_image(model, image, WORDS).logits
    plain = make_model()
    left, right, whole = (
        segment_image(plain, part, WORDS).logits.softmax(1) for part in (image[..., :64], image[..., 32:], image)
    )
    whole = F.interpolate(whole, (24, 48), mode="bilinear")
    windows = torch.cat([left[..., :16], (left[..., 16:] + right[..., :16]) / 2, right[..., 16:]], dim=-1)
    torch.testing.assert_close(logits.exp(), (windows + whole) / 2, atol=1e-5, rtol=1e-4)


def test_window_starts_cover_the_side():
    assert window_starts(640, 384, 1 / 3) == [0, 256]
    assert window_starts(384, 384, 1 / 3) == [0]
    assert window_starts(1000, 384, 0.5) == [0, 154, 308, 462, 616]
    with pytest.raises(ValueError, match="larger"):
        window_starts(100, 384, 0.5)


def test_gradients_reach_what_is_trained_and_nothing_else():
    model = make_model("MODEL.CLIP.TRAIN", "attention", "MODEL.ESC.AUX_LOSS", 0.1).train()
    model.blocks[0].sam_block.layers[0].norm1.requires_grad_(False)
    losses = model(training_batch())
    assert set(losses) == {"loss_sem_seg", "loss_aux"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(".attn." in n for n in trained if n.startswith("clip_"))
    assert not any(n.startswith("prompt_encoder") for n in trained)


@pytest.mark.parametrize("which", ["none", "attention", "all"])
def test_a_pretrained_sam_block_trains_what_is_asked(which, tmp_path):
    from escnet.pretrained.sam import build_sam

    torch.save(build_sam("mini").state_dict(), tmp_path / "sam.pth")
    model = make_model(
        "MODEL.SAM.INIT", "pretrained", "MODEL.SAM.WEIGHTS", str(tmp_path / "sam.pth"), "MODEL.SAM.TRAIN", which
    )
    for block in model.blocks:
        trained = {n for n, p in block.sam_block.named_parameters() if p.requires_grad}
        everything = {n for n, _ in block.sam_block.named_parameters()}
        expected = {"none": set(), "attention": {n for n in everything if "attn" in n}, "all": everything}
        assert trained == expected[which]


def test_every_block_has_its_own_copy_of_sam(tmp_path):
    from escnet.pretrained.sam import build_sam

    sam = build_sam("mini")
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    model = make_model("MODEL.SAM.INIT", "pretrained", "MODEL.SAM.WEIGHTS", str(tmp_path / "sam.pth"))
    weights = [block.sam_block.layers[1].self_attn.q_proj.weight for block in model.blocks]
    assert weights[0].data_ptr() != weights[1].data_ptr()
    for weight in weights:
        assert torch.equal(weight, sam.mask_decoder.transformer.layers[1].self_attn.q_proj.weight)


@pytest.mark.parametrize(
    "opts",
    [
        ("MODEL.SAM.INIT", "none"),
        ("MODEL.ESC.PROMPTS", "point"),
        ("MODEL.ESC.PROMPTS", "mask"),
        ("MODEL.ESC.PROMPTS", "box"),
        ("MODEL.ESC.NUM_PROMPTS", 1),
        ("MODEL.ESC.NUM_BLOCKS", 1),
        ("MODEL.ESC.CLASS_MERGE", "mean"),
        ("MODEL.ESC.CLASS_MERGE", "per_class"),
        ("MODEL.ESC.SOFTMAX_AXIS", "space"),
        ("MODEL.ESC.ALPHA", 0.2),
        ("MODEL.ESC.MASK_ENCODING", "each"),
        ("MODEL.ESC.LOSS", "bce"),
        ("MODEL.ESC.LOSS", "ce_dice"),
        ("MODEL.ESC.KMEANS", "sklearn"),
        ("MODEL.ESC.TRAIN_CLASSES", 3),
        ("MODEL.CLIP.TRAIN", "qv"),
        ("MODEL.CLIP.TRAIN", "none"),
        ("MODEL.CLIP.DENSE", "kk", "MODEL.CLIP.DENSE_RESIDUAL", False),
        ("MODEL.ESC.CHECKPOINT", True, "MODEL.ESC.CLASS_CHUNK", 2),
        ("MODEL.PRECISION", "bf16"),
    ],
    ids=lambda opts: " ".join(map(str, opts)),
)
def test_every_ablation_trains_and_segments(opts):
    model = make_model(*opts)
    assert model([make_input()], WORDS)[0]["labels"].shape == (48, 64)
    loss = sum(model.train()(training_batch()).values())
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_checkpointing_keeps_loss_and_gradients():
    results = []
    for checkpoint in (False, True):
        model = make_model("MODEL.ESC.CHECKPOINT", checkpoint, "MODEL.ESC.CLASS_CHUNK", 2).train()
        loss = sum(model(training_batch()).values())
        loss.backward()
        results.append((loss, [p.grad for p in model.parameters() if p.requires_grad]))
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)


def test_a_saved_model_is_the_same_after_loading(tmp_path):
    model = make_model()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    other = build_model(make_config("SEED", 5)).eval()
    other.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
    image = make_input()["image"]
    assert torch.equal(segment_image(model, image, WORDS).logits, segment_image(other, image, WORDS).logits)


def test_inputs_without_a_common_vocabulary_are_refused():
    model = make_model()
    with pytest.raises(ValueError, match="no vocabulary"):
        model([make_input()])
    with pytest.raises(ValueError, match="different vocabularies"):
        model([make_input(vocabulary=WORDS), make_input(vocabulary=Vocabulary(["cup"]))])


@pytest.mark.parametrize(
    "opts",
    [
        ("MODEL.SAM.INIT", "guessed"),
        ("MODEL.SAM.TRAIN", "some"),
        ("MODEL.CLIP.TRAIN", "some"),
        ("MODEL.ESC.PROMPTS", "scribble"),
        ("MODEL.ESC.GUIDANCE", "kv"),
        ("MODEL.ESC.PASSES", "0"),
        ("MODEL.PRECISION", "int8"),
    ],
)
def test_unknown_settings_are_refused(opts):
    with pytest.raises(ValueError, match=opts[1]):
        build_model(make_config(*opts))
