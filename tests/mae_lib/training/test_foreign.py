"""Weights from elsewhere: the libraries that they come from are the oracles. Nothing is downloaded:
their models have random weights."""

from __future__ import annotations

import hashlib
import json
import re
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

import foreign
import tiny
from mae_lib.base.errors import InputError
from mae_lib.model.autoencoder import ModelConfig, normalise_pixels, patchify
from mae_lib.training import store
from mae_lib.training.config import PretrainConfig
from mae_lib.training.foreign.files import Said
from mae_lib.training.foreign.models import Told, import_weights, read_foreign
from mae_lib.training.pretrain import pretrain
from mae_lib.training.tiers import tier
from tiny import one_thread  # noqa: F401

CLOSE = dict(rtol=0, atol=1e-5)
FOUR = Told(known=Said(heads=4))
META = Told(pickled=True, known=Said(heads=4, decoder_heads=2, normalise_target=True))


def images(size=(32, 32), channels: int = 3) -> torch.Tensor:
    return torch.rand(3, channels, *size, generator=torch.Generator().manual_seed(1))


def drawn(patches: int = 16, visible: int = 4) -> tuple[torch.Tensor, ...]:
    """(noise, visible, hidden): a mask as transformers takes it, and as our model does."""
    noise = torch.rand(3, patches, generator=torch.Generator().manual_seed(2))
    order = noise.argsort(1)
    return noise, order[:, :visible], order[:, visible:]


# --- features, reconstructions, loss --------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (16, 40)], ids=str)
def test_features_are_those_of_timm(tmp_path: Path, size: tuple[int, int]) -> None:
    theirs, x = foreign.timm_vit(size), images(size)
    file = foreign.timm_file(tmp_path, theirs)
    _, ours = read_foreign(file, replace(FOUR, image_size=size))
    with torch.no_grad():
        wanted = theirs.forward_features(foreign.standardised(x))
        torch.testing.assert_close(ours.encode(normalise_pixels(x)), wanted, **CLOSE)


def agree(theirs: torch.nn.Module, ours: torch.nn.Module, x: torch.Tensor, z: torch.Tensor) -> None:
    """Features, predictions, loss and the rebuilt picture of one mask; x in [0, 1], z the same as
    the library takes it."""
    patch, grid = ours.config.patch, ours.config.grid
    count = grid[0] * grid[1]
    noise, visible, hidden = drawn(count, count // 4)
    mine = normalise_pixels(x)
    with torch.no_grad():
        seen = theirs.vit(z, noise=noise).last_hidden_state
        torch.testing.assert_close(ours.encode(mine, visible), seen, **CLOSE)
        out = theirs(z, noise=noise)
        loss, prediction = ours(mine, visible, hidden)
        torch.testing.assert_close(loss, out.loss, **CLOSE)
        pictures = theirs.unpatchify(out.logits)  # in the library's units, as the loss is
        logits = patchify(pictures, patch)
        index = hidden[..., None].expand(-1, -1, logits.shape[-1])
        torch.testing.assert_close(prediction, logits.gather(1, index), **CLOSE)
        if theirs.config.norm_pix_loss:  # each patch has its own mean and deviation put back
            true = patchify(z, patch)
            logits = logits * (true.var(-1, keepdim=True) + 1e-6).sqrt() + true.mean(-1, True)
        scale = 0.25 / z.new_tensor(ours.config.pixel_deviation).repeat_interleave(patch**2)
        shift = 0.5 - z.new_tensor(ours.config.pixel_mean).repeat_interleave(patch**2)
        expected = (logits - shift / (scale.reciprocal() * 0.25)) / scale
        rebuilt = patchify(ours.reconstruct(mine, visible), patch)
        torch.testing.assert_close(
            rebuilt.gather(1, index), expected.gather(1, index), rtol=0, atol=3e-5
        )
        kept = visible[..., None].expand(-1, -1, logits.shape[-1])
        assert torch.equal(rebuilt.gather(1, kept), patchify(mine, patch).gather(1, kept))


@pytest.mark.parametrize("normalised", [False, True])
def test_a_whole_model_is_that_of_transformers(tmp_path: Path, normalised: bool) -> None:
    theirs = foreign.vitmae(norm_pix_loss=normalised)
    config, ours = read_foreign(foreign.vitmae_folder(tmp_path / "mine", theirs))
    assert config.ratio == 0.75 and config.name == "transformers-mine"
    assert config.model.normalise_target == normalised
    agree(theirs, ours, images(), foreign.standardised(images()))


def test_what_only_the_config_says_is_heeded(tmp_path: Path) -> None:
    theirs = foreign.vitmae(layer_norm_eps=0.3, qkv_bias=False, num_channels=2, mask_ratio=0.5)
    folder = foreign.vitmae_folder(tmp_path, theirs)
    pixels = {"image_mean": [0.2, 0.6], "image_std": [0.5, 0.1]}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    config, ours = read_foreign(folder)
    assert config.ratio == 0.5 and config.model.norm_eps == 0.3
    x = images(channels=2)
    z = (x - torch.tensor([0.2, 0.6])[:, None, None]) / torch.tensor([0.5, 0.1])[:, None, None]
    theirs.config.mask_ratio = 0.75
    agree(theirs, ours, x, z)


@pytest.mark.parametrize("version", ["4", "5"])
def test_transformers_names_of_both_versions_are_read(tmp_path: Path, version: str) -> None:
    theirs = foreign.vitmae()
    foreign.vitmae_folder(tmp_path, theirs)
    tensors = theirs.state_dict()
    if version == "4":  # the names of the published files
        names = {
            r"^vit\.layers": "vit.encoder.layer",
            r"attention\.q_proj": "attention.attention.query",
            r"attention\.k_proj": "attention.attention.key",
            r"attention\.v_proj": "attention.attention.value",
            r"attention\.o_proj": "attention.output.dense",
            r"mlp\.fc1": "intermediate.dense",
            r"mlp\.fc2": "output.dense",
        }
        for old, new in names.items():
            tensors = {re.sub(old, new, name): t for name, t in tensors.items()}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    agree(theirs, read_foreign(tmp_path)[1], images(), foreign.standardised(images()))


def test_an_encoder_of_transformers_has_no_decoder(tmp_path: Path) -> None:
    theirs = foreign.vitmae().vit
    theirs.save_pretrained(tmp_path)
    config, ours = read_foreign(tmp_path)
    noise, visible, hidden = drawn()
    x = normalise_pixels(images())
    with torch.no_grad():
        seen = theirs(foreign.standardised(images()), noise=noise).last_hidden_state
        torch.testing.assert_close(ours.encode(x, visible), seen, **CLOSE)
    assert not config.model.has_decoder
    for attempt in (lambda: ours(x, visible, hidden), lambda: ours.reconstruct(x)):
        with pytest.raises(InputError, match="encoder alone"):
            attempt()


def test_meta_files_of_both_kinds_are_read_with_permission(tmp_path: Path) -> None:
    theirs = foreign.vitmae(layer_norm_eps=1e-6, norm_pix_loss=True)
    tensors = foreign.meta_tensors(theirs)
    whole, alone = tmp_path / "mae_visualize_vit.pth", tmp_path / "mae_pretrain_vit.pth"
    torch.save({"model": tensors}, whole)
    of_decoder = ("decoder_", "mask_token")
    torch.save({"model": {k: v for k, v in tensors.items() if not k.startswith(of_decoder)}}, alone)
    with pytest.raises(InputError, match=r"mae_visualize_vit.pth is a pickle.*--pickled"):
        read_foreign(whole, replace(META, pickled=False))
    config, ours = read_foreign(whole, META)
    assert config.source["library"] == "mae" and config.ratio is None
    agree(theirs, ours, images(), foreign.standardised(images()))
    encoder = read_foreign(alone, replace(META, known=Said(heads=4)))[1]
    x = normalise_pixels(images())
    assert torch.equal(encoder.encode(x), ours.encode(x)) and not encoder.config.has_decoder
    assert torch.equal(
        read_foreign(whole, replace(META, encoder_only=True))[1].encode(x), ours.encode(x)
    )


def test_a_training_of_meta_code_says_its_options(tmp_path: Path) -> None:
    tensors = foreign.meta_tensors(foreign.vitmae())
    arguments = Namespace(norm_pix_loss=True, mask_ratio=0.6, model="mae_vit_base_patch16")
    torch.save({"model": tensors, "args": arguments, "epoch": 3}, tmp_path / "checkpoint-3.pth")
    told = replace(META, known=Said(heads=4, decoder_heads=2))
    config, _ = read_foreign(tmp_path / "checkpoint-3.pth", told)
    assert config.model.normalise_target and config.ratio == 0.6
    assert config.source["settled"]["normalise_target"] == "source"


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_vit_b_16_agrees_too(tmp_path: Path, library: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 3, 224, 224)
    z = foreign.standardised(x)
    with torch.no_grad():
        if library == "timm":
            theirs = timm.create_model("vit_base_patch16_224.mae").eval()
            for parameter in theirs.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
            # a folder as the hub has it
            safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
            pixels = {"mean": foreign.MEAN, "std": foreign.DEVIATION}
            said = {"architecture": "vit_base_patch16_224", "pretrained_cfg": pixels}
            (tmp_path / "config.json").write_text(json.dumps(said))
            config, ours = read_foreign(tmp_path)
            assert set(config.source["settled"].values()) == {"source"}
            wanted, found = theirs.forward_features(z), ours.encode(normalise_pixels(x))
        else:
            config = foreign.transformers.ViTMAEConfig(norm_pix_loss=True)
            theirs = foreign.transformers.ViTMAEForPreTraining(config).eval()
            for parameter in theirs.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
            _, ours = read_foreign(foreign.vitmae_folder(tmp_path, theirs))
            order = torch.rand(1, 196).argsort(1)
            noise = order.argsort(1).float()
            out = theirs(z, noise=noise)
            wanted = patchify(theirs.unpatchify(out.logits), 16)[:, order[0, 49:]]
            loss, found = ours(normalise_pixels(x), order[:, :49], order[:, 49:])
            torch.testing.assert_close(loss, out.loss, **CLOSE)
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_another_size_and_patch_are_reached_as_timm_reaches_them(tmp_path: Path) -> None:
    theirs = foreign.timm_vit()
    file, x = foreign.timm_file(tmp_path, theirs), images((48, 64))
    config, ours = read_foreign(file, replace(FOUR, image_size=(48, 64), patch=16))
    assert config.source["resampled"] == {"image_size": [[32, 32], [48, 64]], "patch": [8, 16]}
    theirs.set_input_size(img_size=(48, 64), patch_size=16)
    with torch.no_grad():
        wanted = theirs.forward_features(foreign.standardised(x))
        torch.testing.assert_close(ours.encode(normalise_pixels(x)), wanted, **CLOSE)
    assert read_foreign(file, FOUR)[0].source["resampled"] == {}


# --- the record -----------------------------------------------------------------------------------


def test_a_record_says_what_is_known_and_invents_nothing(tmp_path: Path) -> None:
    file = foreign.timm_file(tmp_path)
    stored = import_weights(file, tmp_path / "out", FOUR)
    assert store.read(stored.path).config == stored.config
    assert stored.config.source["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert stored.record["unknown"] == ["data", "steps", "seed", "ratio"]
    assert stored.config.source["settled"] == {
        "mean": "usual",
        "deviation": "usual",
        "heads": "told",
        "norm_eps": "usual",
    }
    assert stored.config.ratio is stored.config.seed is None
    assert stored.config.data == {"kind": "unknown"} and stored.curve == ([], [])
    assert str(tmp_path) not in stored.path.with_suffix(".json").read_text()
    for question in (lambda: stored.config.mask, stored.late_fall):
        with pytest.raises(InputError, match=r"nobody knows|nothing is known"):
            question()
    x = normalise_pixels(images())
    assert torch.equal(store.load(stored.path).encode(x), read_foreign(file, FOUR)[1].encode(x))
    before = stored.path.stat().st_mtime_ns
    assert import_weights(file, tmp_path / "out", FOUR).path == stored.path
    assert stored.path.stat().st_mtime_ns == before  # not made again
    told = replace(FOUR, known=replace(FOUR.known, ratio=0.75))
    known = import_weights(file, tmp_path / "out", told)
    assert known.config.mask.hidden_ratio == 0.75 and known.path != stored.path
    assert known.record["unknown"] == ["data", "steps", "seed"]
    assert known.config.source["settled"]["ratio"] == "told"
    assert len(store.checkpoints(tmp_path / "out")) == 2


def test_fields_for_weights_from_elsewhere_leave_other_names_alone() -> None:
    own = tier("laptop").config({"kind": "world"})
    assert set(own.to_dict()["model"]) == {
        *("image_size", "patch", "channels", "width", "depth", "heads", "decoder_width"),
        *("decoder_depth", "decoder_heads", "mlp_ratio", "normalise_target"),
    }
    assert "start" not in own.to_dict()
    odd = replace(own.model, positions="stored", pixel_mean=(0.1,) * 3, pixel_deviation=(1,) * 3)
    assert ModelConfig.from_dict(json.loads(json.dumps(odd.to_dict()))) == odd
    assert replace(own, model=odd).hash != own.hash != replace(own, start="0" * 64).hash


# --- going on -------------------------------------------------------------------------------------


def continued(start: store.Checkpoint, **changes) -> PretrainConfig:
    sizes = store.continuing(tier("smoke"), start)
    fields = dict(steps=4, batch=8, crop=1.0, flip=False) | changes
    config = sizes.config(tiny.Ramps().identity, start=start.record["digest"])
    return replace(config, **fields)


def test_a_run_goes_on_from_imported_weights(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    start = import_weights(foreign.vitmae_folder(tmp_path / "hub"), tmp_path / "out")
    config, source = continued(start), tiny.Ramps()
    assert config.model == start.config.model and "-from" in config.name
    after = store.load_or_pretrain(config, source, start=start, device="cpu", progress=False)
    before = start.load()
    still = pretrain(
        replace(config, base_lr=1e-30), source, device="cpu", progress=False, start=before
    )
    moved = [n for n, p in after.named_parameters() if not torch.equal(p, before.get_parameter(n))]
    assert {n.partition(".")[0] for n in moved} > {"embed", "encoder", "decoder", "head"}
    assert torch.equal(after.position, before.position)
    x = normalise_pixels(images())
    torch.testing.assert_close(still.model.encode(x), before.encode(x), **CLOSE)
    # found again, without the start
    assert store.find(config) is not None
    store.load_or_pretrain(config, source, device="cpu", progress=False)


def test_an_encoder_alone_gets_the_tiers_decoder(tmp_path: Path) -> None:
    start = import_weights(foreign.timm_file(tmp_path), tmp_path / "out", FOUR)
    config = continued(start, base_lr=1e-30)
    smoke = tier("smoke").model
    assert config.model.decoder_width == smoke.decoder_width and config.model.width == 32
    with pytest.raises(InputError, match="needs a decoder"):
        replace(config, model=start.config.model)
    trained = pretrain(config, tiny.Ramps(), device="cpu", progress=False, start=start.load())
    x = normalise_pixels(images())
    torch.testing.assert_close(trained.model.encode(x), start.load().encode(x), **CLOSE)


def test_a_run_that_goes_on_resumes_to_the_same_bits(tmp_path: Path) -> None:
    start = import_weights(foreign.vitmae_folder(tmp_path / "hub"), tmp_path / "out")
    config, source, state = continued(start), tiny.Ramps(), tmp_path / "state.safetensors"

    def stop(run) -> None:
        if run.step == 2:
            raise KeyboardInterrupt

    arguments = dict(device="cpu", progress=False, start=start.load())
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, source, state=state, on_step=stop, **arguments)
    resumed = pretrain(config, source, state=state, **arguments).model.state_dict()
    whole = pretrain(config, source, **arguments).model.state_dict()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_another_start_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    start = import_weights(foreign.vitmae_folder(tmp_path / "hub"), tmp_path / "out")
    other = tiny.checkpoint(tmp_path / "own", tiny.config())
    config, source = continued(start), tiny.Ramps()
    for given in (None, other):
        with pytest.raises(InputError, match=r"goes on from another checkpoint, and .* was given"):
            store.obtain(config, source, start=given, device="cpu", progress=False)
    with pytest.raises(InputError, match="goes on from no checkpoint"):
        store.obtain(tiny.config(), source, start=start, device="cpu", progress=False)
    with pytest.raises(InputError, match="begins with stored weights"):
        pretrain(config, source, device="cpu", progress=False)


# --- bad input ------------------------------------------------------------------------------------


def altered(**changes) -> dict[str, torch.Tensor]:
    """Tensors of timm's names, some replaced, or gone where None."""
    tensors = foreign.timm_vit().state_dict() | {
        k.replace("__", "."): v for k, v in changes.items()
    }
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


@pytest.mark.parametrize(
    ("changes", "told", "message"),
    [
        ({"norm__weight": None}, FOUR, r"lacks norm.weight: it is cut short"),
        ({"blocks__1__attn__qkv__bias": None}, FOUR, r"lacks blocks.1.attn.qkv.bias"),
        ({"head__weight": torch.ones(2, 32)}, FOUR, r"also holds head.weight.*classifier"),
        ({"blocks__0__ls1__gamma": torch.ones(32)}, FOUR, r"also holds blocks.0.ls1.gamma"),
        ({"patch_embed__proj__weight": None}, FOUR, r"is no ViT"),
        ({"mask_token": torch.ones(1, 1, 8)}, FOUR, r"lacks decoder_blocks.0"),
        ({"norm__bias": torch.full((32,), torch.nan)}, FOUR, r"norm.bias is not made of finite"),
        ({"norm__bias": torch.ones(16)}, FOUR, r"do not fit together.*encoder_norm.bias"),
        ({"pos_embed": torch.ones(2, 17, 32)}, FOUR, r"holds pos_embed of shape \[2, 17, 32\]"),
        ({"cls_token": torch.ones(32)}, FOUR, r"holds cls_token of shape \[32\]"),
        ({"pos_embed": torch.ones(1, 15, 32)}, FOUR, r"positions for 14 patches of 8 px.*HxW"),
        ({"patch_embed__proj__weight": torch.ones(32, 3, 8, 4)}, FOUR, r"must be square"),
        ({"patch_embed__proj__weight": torch.ones(32, 4, 8, 8)}, FOUR, r"give --mean"),
        ({}, Told(), r"how many attention heads share a width of 32: give --heads"),
        ({}, Told(known=Said(heads=5)), r"encoder width 32 must be divisible by its 5 heads"),
        ({}, replace(FOUR, image_size=(36, 32)), r"patches of 8 px do not tile .* 36×32"),
        ({}, replace(FOUR, patch=5), r"patches of 5 px do not tile"),
        (
            {},
            Told(known=Said(heads=4, mean=(0.5,))),
            r"mean and a positive deviation for each of 3",
        ),
        ({}, Told(known=Said(heads=4, ratio=1.0)), r"masking ratio 1.0"),
    ],
)
def test_tensors_of_another_kind_are_refused(tmp_path, changes, told, message) -> None:
    safetensors.torch.save_file(altered(**changes), tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match=message) as caught:
        import_weights(tmp_path / "odd.safetensors", tmp_path / "out", told)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "vit"}, r"model_type 'vit'"),
        ({"hidden_act": "relu"}, r"hidden_act 'relu'"),
        ({"num_attention_heads": None}, r"lacks or misstates"),
        ({"num_attention_heads": [4]}, r"lacks or misstates"),
        ({"num_attention_heads": 5}, r"encoder width 32 must be divisible by its 5 heads"),
        ({"image_size": [32, 32, 32]}, r"lacks or misstates"),
        ({"image_size": 64}, r"positions for 16 patches of 8 px, which a 64×64 image does not"),
    ],
)
def test_configs_of_another_kind_are_refused(tmp_path, change, message) -> None:
    folder = foreign.vitmae_folder(tmp_path / "hub")
    values = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=message):
        read_foreign(folder)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        read_foreign(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"needs config.json"):
        read_foreign(tmp_path)
    folder = foreign.vitmae_folder(tmp_path / "hub")
    for name, text, message in (
        ("model.safetensors", "no tensors", "damaged or no safetensors"),
        ("config.json", "{", "is no JSON"),
        ("config.json", "[]", "holds no config"),
    ):
        kept = (folder / name).read_bytes()
        (folder / name).write_text(text)
        with pytest.raises(InputError, match=message):
            read_foreign(folder)
        (folder / name).write_bytes(kept)
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"has transformers' names.*name its folder"):
        read_foreign(lone)
    with pytest.raises(InputError, match=r"comes with heads 4, and you say 2"):
        read_foreign(folder, Told(known=Said(heads=2)))
    with pytest.raises(InputError, match=r"predicts patches of 8 px, and no others"):
        read_foreign(folder, Told(patch=16))
    torch.save(foreign.meta_tensors(foreign.vitmae()), tmp_path / "whole.pth")
    with pytest.raises(InputError, match=r"give --normalise-target True or False"):
        read_foreign(tmp_path / "whole.pth", Told(True, known=Said(heads=4, decoder_heads=2)))


class Run:
    """What a pickle could do."""

    def __reduce__(self):
        return exec, ("open(__import__('os').environ['TRACE'], 'w').close()",)


def test_a_pickle_runs_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TRACE", str(tmp_path / "trace"))
    for name, held in (
        ("code.pth", {"model": foreign.timm_vit().state_dict(), "args": Run()}),
        ("list.pth", [1, 2]),
        ("object.pth", {"model": {"a": 3}}),
    ):
        torch.save(held, tmp_path / name)
        with pytest.raises(InputError, match=rf"{name}"):
            read_foreign(tmp_path / name, META)
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("hello")
    for name in ("empty.pth", "text.pth"):
        with pytest.raises(InputError, match=rf"{name} was not read"):
            read_foreign(tmp_path / name, META)
    assert not (tmp_path / "trace").exists()
