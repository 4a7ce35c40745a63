"""A generator to be audited: a small latent diffusion model of MONAI's networks, trained with records shown more than once, sampled with a manifest."""

from doppelscan.generate.conditioning import Condition, TextEmbedding, Unconditional, Variables, condition_from, fit_condition
from doppelscan.generate.diffusion import NoisyLatents
from doppelscan.generate.duplication import DUPLICATION, RepeatSampler, draw_repeats
from doppelscan.generate.generator import Autoencoder, Generator, load_autoencoder, load_generator
from doppelscan.generate.losses import (
    AdversarialLoss,
    DiscriminatorLoss,
    NegativeError,
    ReconstructionLoss,
    gradient_difference,
    kl_divergence,
)
from doppelscan.generate.networks import Reconstruction, autoencoder_kl, diffusion_unet, moving_average, require_size
from doppelscan.generate.sampling import MANIFEST, Sample, Sampler, SeededSamples
from doppelscan.generate.settings import TrainingSettings
from doppelscan.generate.training_set import Latents, TrainingImages
from doppelscan.generate.zoo import (
    BrightestToOne,
    BundleFiles,
    BundleSampler,
    GanImages,
    LatentDiffusionImages,
    MaisiFiles,
    NiftiFiles,
    PngFiles,
    SampleRequest,
    ask_bundle,
    load_bundle_weights,
)

__all__ = [
    "DUPLICATION",
    "MANIFEST",
    "AdversarialLoss",
    "Autoencoder",
    "BrightestToOne",
    "BundleFiles",
    "BundleSampler",
    "Condition",
    "DiscriminatorLoss",
    "GanImages",
    "Generator",
    "LatentDiffusionImages",
    "Latents",
    "MaisiFiles",
    "NegativeError",
    "NiftiFiles",
    "NoisyLatents",
    "PngFiles",
    "Reconstruction",
    "ReconstructionLoss",
    "RepeatSampler",
    "Sample",
    "SampleRequest",
    "Sampler",
    "SeededSamples",
    "TextEmbedding",
    "TrainingImages",
    "TrainingSettings",
    "Unconditional",
    "Variables",
    "ask_bundle",
    "autoencoder_kl",
    "condition_from",
    "diffusion_unet",
    "draw_repeats",
    "fit_condition",
    "gradient_difference",
    "kl_divergence",
    "load_autoencoder",
    "load_bundle_weights",
    "load_generator",
    "moving_average",
    "require_size",
]
