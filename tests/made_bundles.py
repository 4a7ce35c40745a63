"""Bundles of the layout of MONAI's model zoo: their ids, network classes and names of files; a few channels, random weights, and a sampler in few lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser

VERSIONS = {
    "brats_mri_axial_slices_generative_diffusion": "1.1.2",
    "brats_mri_generative_diffusion": "1.1.2",
    "mednist_gan": "0.4.3",
    "maisi_ct_generative": "1.0.0",
}
COMMON = {
    "bundle_root": ".",
    "model_dir": "$@bundle_root + '/models'",
    "output_dir": "$@bundle_root + '/output'",
    "create_output_dir": "$Path(@output_dir).mkdir(exist_ok=True)",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
}
SCHEDULE = {
    "num_train_timesteps": 1000, "beta_start": 0.0015, "beta_end": 0.0195, "schedule": "scaled_linear_beta", "clip_sample": False,
}  # fmt: skip
LDM_SAMPLER = """
import sys

import torch
from torch.amp import autocast


class LDMSampler:
    @torch.no_grad()
    def sampling_fn(self, input_noise, autoencoder_model, diffusion_model, scheduler, conditioning=None):
        image = input_noise
        for number, t in enumerate(scheduler.timesteps):
            print(f"{number} steps", file=sys.stderr)
            output = diffusion_model(image, timesteps=torch.Tensor((t,)).to(image.device).long(), context=conditioning)
            image, _ = scheduler.step(output, t, image)
        with autocast("cuda", enabled=torch.cuda.is_available()):
            return autoencoder_model.decode_stage_2_outputs(image)
"""
MAISI_SAMPLE = """
import json
import os
import random
from datetime import datetime

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import DiffusionInferer
from monai.transforms import LoadImage, RandZoom, SaveImage


def check_input(body_region, anatomy_list, label_dict_json, output_size, spacing, controllable_anatomy_size):
    if output_size[0] != output_size[1]:
        raise ValueError(f"The first two components of output_size differ: {output_size}.")


class LDMSampler:
    def __init__(self, **settings):
        vars(self).update(settings)
        self.labels = [json.load(open(self.label_dict_json))[name] for name in self.anatomy_list]

    def sample_multiple_images(self, num_img):
        masks = [item for item in json.load(open(self.all_mask_files_json)) if set(self.labels) <= set(item["label_list"])]
        if not masks:
            raise ValueError("Cannot find body region\\nwith given anatomy list.")
        random.shuffle(masks)
        return [self.one(masks[number % len(masks)]) for number in range(num_img)]

    @torch.no_grad()
    def one(self, item):
        mask = LoadImage(ensure_channel_first=True)(os.path.join(self.all_mask_files_base_dir, item["pseudo_label_filename"]))
        mask = RandZoom(min_zoom=0.8, max_zoom=1.2, mode="nearest", prob=1.0)(mask)
        seen = torch.stack([(mask[0] == number).float() for number in range(8)])[None].to(self.device)
        latents = torch.randn([1, *self.latent_shape]).to(self.device)
        spacing = torch.tensor([self.spacing], device=self.device).float() * 100
        self.noise_scheduler.set_timesteps(num_inference_steps=self.num_inference_steps, input_img_size_numel=latents[0, 0].numel())
        following = [*self.noise_scheduler.timesteps[1:], torch.tensor(0.0)]
        for t, after in zip(self.noise_scheduler.timesteps, following):
            time = torch.Tensor((t,)).to(self.device)
            down, mid = self.controlnet(x=latents, timesteps=time, controlnet_cond=seen, class_labels=torch.ones(1).long())
            output = self.diffusion_unet(
                x=latents, timesteps=time, spacing_tensor=spacing, class_labels=torch.ones(1).long(),
                down_block_additional_residuals=down, mid_block_additional_residual=mid,
            )
            latents, _ = self.noise_scheduler.step(output, t, latents, after)
        image = self.autoencoder.decode_stage_2_outputs(latents / self.scale_factor).sigmoid() * 2000 - 1000
        image[mask[None] == 0] = -1000
        name = datetime.now().strftime("%Y%m%d_%H%M%S_%f")
        mask.meta["filename_or_obj"] = "sample.nii.gz"
        paths = []
        for kind, volume in (("image", MetaTensor(image[0].cpu(), meta=mask.meta)), ("label", mask)):
            SaveImage(self.output_dir, f"{name}_{kind}", ".nii.gz", separate_folder=False, print_log=False)(volume)
            paths.append(os.path.join(self.output_dir, f"sample_{name}_{kind}.nii.gz"))
        return paths
"""


def latent_diffusion(dims: int) -> dict[str, Any]:
    """configs/inference.json of both brats bundles."""
    pictures = ["$from PIL import Image", "$from scripts.utils import visualize_2d_image", "$import os"] if dims == 2 else []
    return {
        "imports": ["$import torch", "$from datetime import datetime", "$from pathlib import Path", *pictures],
        **COMMON,
        "output_postfix": "$datetime.now().strftime('sample_%Y%m%d_%H%M%S')",
        "spatial_dims": dims,
        "image_channels": 1,
        "latent_channels": 1 if dims == 2 else 2,
        "latent_shape": ["@latent_channels", 12, 12] if dims == 2 else ["@latent_channels", 8, 8, 4],
        "autoencoder_def": {
            "_target_": "monai.networks.nets.autoencoderkl.AutoencoderKL",
            "spatial_dims": "@spatial_dims", "in_channels": "@image_channels", "out_channels": "@image_channels",
            "latent_channels": "@latent_channels", "channels": [4, 4, 8], "num_res_blocks": 1, "norm_num_groups": 4, "norm_eps": 1e-06,
            "attention_levels": [False, False, False], "with_encoder_nonlocal_attn": dims == 2, "with_decoder_nonlocal_attn": dims == 2,
            "include_fc": False,
        },
        "network_def": {
            "_target_": "monai.networks.nets.diffusion_model_unet.DiffusionModelUNet",
            "spatial_dims": "@spatial_dims", "in_channels": "@latent_channels", "out_channels": "@latent_channels", "channels": [4, 8],
            "attention_levels": [False, True], "num_head_channels": [0, 4], "num_res_blocks": 1, "norm_num_groups": 4, "include_fc": False,
            "use_combined_linear": False,
        },
        "load_autoencoder_path": "$@bundle_root + '/models/model_autoencoder.pt'",
        "load_autoencoder": "$@autoencoder_def.load_old_state_dict(torch.load(@load_autoencoder_path))",
        "autoencoder": "$@autoencoder_def.to(@device)",
        "load_diffusion_path": "$@model_dir + '/model.pt'",
        "load_diffusion": "$@network_def.load_old_state_dict(torch.load(@load_diffusion_path))",
        "diffusion": "$@network_def.to(@device)",
        "noise_scheduler": {
            "_target_": "monai.networks.schedulers.ddim.DDIMScheduler", "_requires_": ["@load_diffusion", "@load_autoencoder"], **SCHEDULE,
        },
        "noise": "$torch.randn([1]+@latent_shape).to(@device)",
        "set_timesteps": "$@noise_scheduler.set_timesteps(num_inference_steps=50)",
        "inferer": {"_target_": "scripts.ldm_sampler.LDMSampler", "_requires_": "@set_timesteps"},
        "run": ["$@create_output_dir", "$@inferer.sampling_fn(@noise, @autoencoder, @diffusion, @noise_scheduler)"],
    }  # fmt: skip


def gan() -> dict[str, Any]:
    """configs/inference.json of mednist_gan, which has no bundle_root of its own in some versions."""
    return {
        "imports": ["$import glob", "$import torch"],
        "device": COMMON["device"],
        "ckpt_path": "$@bundle_root + '/models/model.pt'",
        "output_dir": "./outputs",
        "latent_size": 6,
        "num_samples": 10,
        "network_def": {
            "_target_": "Generator", "latent_shape": "@latent_size", "start_shape": [8, 8, 6], "channels": [4, 4, 1], "strides": [2, 2, 1],
        },
        "network": "$@network_def.to(@device)",
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}]},
        "handlers": [{"_target_": "CheckpointLoader", "load_path": "@ckpt_path", "load_dict": {"model": "@network"}}],
        "inferring": ["$@inferer(torch.rand(1, @latent_size), @network)"],
    }  # fmt: skip


def maisi() -> dict[str, Any]:
    """configs/inference.json of maisi_ct_generative."""
    autoencoder = {
        "_target_": "monai.apps.generation.maisi.networks.autoencoderkl_maisi.AutoencoderKlMaisi",
        "spatial_dims": "@spatial_dims", "latent_channels": "@latent_channels", "num_channels": [4, 4, 8], "num_res_blocks": [1, 1, 1],
        "norm_num_groups": 4, "norm_eps": 1e-06, "attention_levels": [False, False, False], "with_encoder_nonlocal_attn": False,
        "with_decoder_nonlocal_attn": False, "norm_float16": False, "num_splits": 1, "dim_split": 1,
    }  # fmt: skip
    levels = {
        "spatial_dims": "@spatial_dims", "in_channels": "@latent_channels", "attention_levels": [False, True], "num_head_channels": [0, 4],
        "num_res_blocks": 1, "norm_num_groups": 4,
    }  # fmt: skip
    maisi_levels = {**levels, "num_channels": [4, 8], "num_class_embeds": 128, "resblock_updown": True, "include_fc": True}
    networks = ("autoencoder", "diffusion_unet", "controlnet", "mask_generation_autoencoder", "mask_generation_diffusion_unet")
    sampler = {
        name: f"@{name}" for name in (
            "body_region", "anatomy_list", "modality", "all_mask_files_json", "all_anatomy_size_condtions_json", "all_mask_files_base_dir",
            "label_dict_json", "label_dict_remap_json", *networks, "scale_factor", "noise_scheduler", "mask_generation_scale_factor",
            "mask_generation_noise_scheduler", "controllable_anatomy_size", "image_output_ext", "label_output_ext", "device", "latent_shape",
            "output_size", "spacing", "output_dir", "num_inference_steps", "mask_generation_num_inference_steps", "random_seed",
        )
    }  # fmt: skip
    loaded = {}
    for name, key in zip(networks, ("", "unet_state_dict", "controlnet_state_dict", "", "unet_state_dict"), strict=True):
        path = {"diffusion_unet": "diffusion", "mask_generation_diffusion_unet": "mask_generation_diffusion"}.get(name, name)
        definition = {"mask_generation_diffusion_unet": "mask_generation_diffusion_def"}.get(name, f"{name}_def")
        loaded[name] = f"$@{definition}.to(@device)"
        loaded[f"checkpoint_{name}"] = f"$torch.load(@trained_{path}_path, weights_only=False)"
        loaded[f"load_{path}"] = f"$@{name}.load_state_dict(@checkpoint_{name}" + (f"['{key}'])" if key else ")")
    return {
        "imports": ["$import torch", "$from pathlib import Path", "$import scripts"],
        **COMMON,
        "trained_autoencoder_path": "$@model_dir + '/autoencoder_epoch273.pt'",
        "trained_diffusion_path": "$@model_dir + '/diff_unet_ckpt_epoch19350.pt'",
        "trained_controlnet_path": "$@model_dir + '/controlnet_current.pt'",
        "trained_mask_generation_autoencoder_path": "$@model_dir + '/mask_generation_autoencoder.pt'",
        "trained_mask_generation_diffusion_path": "$@model_dir + '/mask_generation_diffusion_unet.pt'",
        "all_mask_files_base_dir": "$@bundle_root + '/datasets/all_masks_flexible_size_and_spacing_4000'",
        "all_mask_files_json": "$@bundle_root + '/configs/candidate_masks_flexible_size_and_spacing_4000.json'",
        "all_anatomy_size_condtions_json": "$@bundle_root + '/configs/all_anatomy_size_condtions.json'",
        "label_dict_json": "$@bundle_root + '/configs/label_dict.json'",
        "label_dict_remap_json": "$@bundle_root + '/configs/label_dict_124_to_132.json'",
        "real_img_median_statistics_file": "$@bundle_root + '/configs/image_median_statistics.json'",
        "num_output_samples": 1,
        "body_region": [],
        "anatomy_list": ["hepatic tumor"],
        "modality": "ct",
        "controllable_anatomy_size": [],
        "num_inference_steps": 3,
        "mask_generation_num_inference_steps": 1000,
        "random_seed": 10,
        "spatial_dims": 3,
        "image_channels": 1,
        "latent_channels": 2,
        "output_size": [32, 32, 16],
        "image_output_ext": ".nii.gz",
        "label_output_ext": ".nii.gz",
        "spacing": [1.5, 1.5, 2.0],
        "latent_shape": ["@latent_channels", "$@output_size[0]//4", "$@output_size[1]//4", "$@output_size[2]//4"],
        "autoencoder_def": {**autoencoder, "in_channels": "@image_channels", "out_channels": "@image_channels"},
        "diffusion_unet_def": {
            "_target_": "monai.apps.generation.maisi.networks.diffusion_model_unet_maisi.DiffusionModelUNetMaisi",
            **maisi_levels, "out_channels": "@latent_channels", "include_top_region_index_input": False,
            "include_bottom_region_index_input": False, "include_spacing_input": True,
        },
        "controlnet_def": {
            "_target_": "monai.apps.generation.maisi.networks.controlnet_maisi.ControlNetMaisi", **maisi_levels,
            "conditioning_embedding_in_channels": 8, "conditioning_embedding_num_channels": [8, 4, 4],
        },
        "mask_generation_autoencoder_def": {**autoencoder, "in_channels": 8, "out_channels": 125},
        "mask_generation_diffusion_def": {
            "_target_": "monai.networks.nets.diffusion_model_unet.DiffusionModelUNet", **levels, "channels": [4, 8],
            "out_channels": "@latent_channels", "with_conditioning": True, "cross_attention_dim": 10,
        },
        **loaded,
        "copy_controlnet_state": "$monai.networks.utils.copy_model_state(@controlnet, @diffusion_unet.state_dict())",
        "scale_factor": "$@checkpoint_diffusion_unet['scale_factor'].to(@device)",
        "mask_generation_scale_factor": "$@checkpoint_mask_generation_diffusion_unet['scale_factor']",
        "noise_scheduler": {
            "_target_": "scripts.rectified_flow.RFlowScheduler", "num_train_timesteps": 1000, "use_discrete_timesteps": False,
            "use_timestep_transform": True, "sample_method": "logit-normal", "scale": 1.2,
        },
        "mask_generation_noise_scheduler": {"_target_": "monai.networks.schedulers.ddpm.DDPMScheduler", **SCHEDULE},
        "check_input":
            "$scripts.sample.check_input(@body_region,@anatomy_list,@label_dict_json,@output_size,@spacing,@controllable_anatomy_size)",
        "ldm_sampler": {
            "_target_": "scripts.sample.LDMSampler",
            "_requires_": [
                "@create_output_dir", "@load_diffusion", "@load_autoencoder", "@copy_controlnet_state", "@load_controlnet",
                "@load_mask_generation_autoencoder", "@load_mask_generation_diffusion", "@check_input",
            ],
            **sampler,
        },
        "run": ["$monai.utils.set_determinism(seed=@random_seed)", "$@ldm_sampler.sample_multiple_images(@num_output_samples)"],
        "evaluator": None,
    }  # fmt: skip


def old_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights under the names that they had in MONAI Generative Models, as the brats bundles hold them, with a projection that was never used."""
    old = {key.replace(".attn.to_", ".to_").replace("postconv", "conv"): value for key, value in state.items()}
    for block in [key.removesuffix(".attn.to_q.weight") for key in state if key.endswith(".attn.to_q.weight")]:
        size = len(state[f"{block}.attn.to_q.weight"])
        old |= {f"{block}.proj_attn.weight": torch.rand(size, size), f"{block}.proj_attn.bias": torch.rand(size)}
    return old


def _random(definition: str, parser: ConfigParser) -> torch.nn.Module:
    network = parser.get_parsed_content(definition)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # last layers start at 0, so an untrained network says nothing
    return network


def tiny_bundle(name: str, folder: Path) -> Path:
    """The bundle ``name`` in ``folder``/``name``."""
    root = folder / name
    for part in ("configs", "models", "scripts"):
        (root / part).mkdir(parents=True)
    dims = {"brats_mri_axial_slices_generative_diffusion": 2, "brats_mri_generative_diffusion": 3}
    config = latent_diffusion(dims[name]) if name in dims else {"mednist_gan": gan, "maisi_ct_generative": maisi}[name]()
    (root / "configs" / "inference.json").write_text(json.dumps(config, indent=4))
    (root / "configs" / "metadata.json").write_text(json.dumps({"version": VERSIONS[name]}))
    (root / "scripts" / "__init__.py").touch()
    parser = ConfigParser({**config, "bundle_root": str(root)})
    torch.manual_seed(3)
    if name in dims:
        (root / "scripts" / "ldm_sampler.py").write_text(LDM_SAMPLER)
        (root / "scripts" / "utils.py").write_text("def visualize_2d_image(image):\n    return image\n")
        torch.save(old_names(_random("autoencoder_def", parser).state_dict()), root / "models" / "model_autoencoder.pt")
        torch.save(old_names(_random("network_def", parser).state_dict()), root / "models" / "model.pt")
    elif name == "mednist_gan":
        torch.save({"model": _random("network_def", parser).state_dict()}, root / "models" / "model.pt")
    else:
        _maisi_files(root, parser)
    return root


def _maisi_files(root: Path, parser: ConfigParser) -> None:
    (root / "scripts" / "sample.py").write_text(MAISI_SAMPLE)
    (root / "scripts" / "__init__.py").write_text("from . import sample\n")
    (root / "scripts" / "rectified_flow.py").write_text("from monai.networks.schedulers import RFlowScheduler\n")
    made = {
        part: _random(f"{part}_def", parser).state_dict()
        for part in ("autoencoder", "diffusion_unet", "controlnet", "mask_generation_autoencoder")
    }
    masks = _random("mask_generation_diffusion_def", parser).state_dict()
    scale = torch.tensor(0.9)
    for file, state in {
        "autoencoder_epoch273": made["autoencoder"],
        "diff_unet_ckpt_epoch19350": {"unet_state_dict": made["diffusion_unet"], "scale_factor": scale},
        "controlnet_current": {"controlnet_state_dict": made["controlnet"]},
        "mask_generation_autoencoder": made["mask_generation_autoencoder"],
        "mask_generation_diffusion_unet": {"unet_state_dict": masks, "scale_factor": scale},
    }.items():
        torch.save(state, root / "models" / f"{file}.pt")
    folder = root / "datasets" / "all_masks_flexible_size_and_spacing_4000"
    folder.mkdir(parents=True)
    items = []
    for number in range(3):
        mask = np.zeros((32, 32, 16), np.uint8)
        mask[4:28, 6 + number : 26, 2:14] = 1
        mask[10:16, 12:18, 5:9] = 4 - number % 2
        nib.save(nib.Nifti1Image(mask, np.diag([1.5, 1.5, 2.0, 1])), folder / f"mask{number}.nii.gz")
        items.append({"pseudo_label_filename": f"mask{number}.nii.gz", "label_list": [1, 26]})
    for file, content in {
        "candidate_masks_flexible_size_and_spacing_4000": items, "all_anatomy_size_condtions": [], "label_dict_124_to_132": {},
        "label_dict": {"liver": 1, "hepatic tumor": 26, "brain": 22}, "image_median_statistics": {},
    }.items():  # fmt: skip
        (root / "configs" / f"{file}.json").write_text(json.dumps(content))
