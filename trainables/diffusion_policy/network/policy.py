"""The Diffusion Policy: its loss and its predicted actions.

Chi et al., "Diffusion Policy" (arXiv 2303.04137). Both take raw values under LeRobot's names; scaling,
cropping and the encoding of images happen inside. ``state_dict()`` has LeRobot's names and nothing else.

Shapes: ``B`` samples, ``To`` observation steps, ``T`` action steps of the horizon, ``A`` action dimension,
``D`` feature dimension, ``S`` cameras, ``N`` = B * To images of a camera, ``C``, ``H``, ``W`` an image,
``G`` size of the observation condition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.network.noise import (
    Generators,
    Known,
    NoiseProcess,
    WarmStart,
    check_skipped,
    randn,
)
from trainables.diffusion_policy.network.normalize import Normalizer, Statistics
from trainables.diffusion_policy.network.unet import ConditionalUnet1d
from trainables.diffusion_policy.network.vision import (
    RgbEncoder,
    center_offset,
    crop_images,
    draw_crop_offsets,
    resize_images,
)
from trainables.features import ACTION, ENVIRONMENT_STATE, STATE, Feature, FeatureType, PolicyFeatures
from trainables.interface import ConfigError, Fault

__all__ = ["DiffusionPolicy", "assemble_policy", "build_networks", "build_policy"]

PAD = "action_is_pad"
LARGEST_PIXEL = 2.0
"""Floats above this are not pixels in [0, 1]: they were not divided by 255."""

Values = Mapping[str, Tensor | np.ndarray]
"""A batch, or observations, under LeRobot's names."""


class Networks(nn.Module):
    """The learned modules, under the names of LeRobot's checkpoints."""

    def __init__(self, rgb_encoder: RgbEncoder | nn.ModuleList | None, unet: ConditionalUnet1d) -> None:
        super().__init__()
        if rgb_encoder is not None:
            self.rgb_encoder = rgb_encoder
        self.unet = unet

    @property
    def encoders(self) -> list[RgbEncoder]:
        """No encoder, one for all cameras, or one per camera."""
        return [module for module in self.modules() if isinstance(module, RgbEncoder)]


class DiffusionPolicy(nn.Module):
    """Predicts a chunk of actions from the last observations. Built by :func:`build_policy`."""

    def __init__(
        self,
        config: PolicyConfig,
        features: PolicyFeatures,
        networks: Networks,
        normalizer: Normalizer,
        process: NoiseProcess,
    ) -> None:
        super().__init__()
        self.config = config
        self.features = features
        self.diffusion = networks
        self.normalizer = normalizer
        self.process = process
        self._frozen: list[nn.Module] = []

    @property
    def n_obs_steps(self) -> int:
        """Observation steps that the policy sees."""
        return self.config.n_obs_steps

    @property
    def horizon(self) -> int:
        """Action steps that are predicted at once."""
        return self.config.horizon

    @property
    def n_action_steps(self) -> int:
        """Actions of a chunk."""
        return self.config.n_action_steps

    @property
    def available_actions(self) -> int:
        """Actions of a chunk that lie in the future: the horizon without the steps before the present."""
        return self.config.available_actions

    @property
    def warm_start_steps(self) -> int:
        """First denoising steps that the rest of the last chunk replaces in an episode."""
        return self.config.warm_start_steps

    @property
    def action_dim(self) -> int:
        """Numbers per action."""
        return self.features.action_dim

    @property
    def device(self) -> torch.device:
        """Device of the weights; the CPU if there are none."""
        weight = next(self.parameters(), None)
        return torch.device("cpu") if weight is None else weight.device

    def statistics(self) -> dict[str, dict[str, np.ndarray]]:
        """The statistics of the normalisation of observations and actions."""
        return {name: dict(entry) for name, entry in self.normalizer.statistics.items()}

    def freeze_encoders(self, *, backbones_only: bool = False) -> None:
        """Freeze the image encoders: no gradients, and BatchNorm's running statistics do not change.

        Args:
            backbones_only: Whether their last layers, which no pretrained backbone has, are trained.
        """
        encoders = self.diffusion.encoders
        self._frozen = [encoder.backbone if backbones_only else encoder for encoder in encoders]
        for module in self._frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """The parameters of the image encoders."""
        return [parameter for encoder in self.diffusion.encoders for parameter in encoder.parameters()]

    def train(self, mode: bool = True) -> DiffusionPolicy:
        """Set training mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Compute activations again in the backward pass instead of keeping them, with the same results."""
        self.diffusion.unet.checkpoint_blocks = enabled
        for encoder in self.diffusion.encoders:
            encoder.checkpoint_blocks = enabled

    def compile_network(self, mode: str = "default", backend: str = "inductor") -> None:
        """torch.compile the U-Net and the encoders in place; names of parameters and modules are kept."""
        for network in (self.diffusion.unet, *self.diffusion.encoders):
            network.compile(mode=mode, backend=backend)

    def loss(
        self,
        batch: Values,
        noise: Tensor | np.ndarray | None = None,
        timesteps: Tensor | np.ndarray | None = None,
        generator: torch.Generator | None = None,
        crop_offsets: Tensor | None = None,
    ) -> Tensor:
        """The denoising loss of a batch of windows.

        Args:
            batch: Raw values under LeRobot's names, tensors or numpy arrays: observations (B, To, ...),
                images as uint8 or as floats in [0, 1]; ``action`` (B, T, A); ``action_is_pad`` (B, T) if
                padding is left out of the loss. Other entries are ignored.
            noise: (B, T, A) standard normal; drawn if None.
            timesteps: (B,) integers below num_train_timesteps, or the real numbers of a flow; drawn if None.
            generator: Draws noise, timesteps and crops, in this order; None: torch's global one.
            crop_offsets: (B, S, 2) top and left of each sample's crop; drawn if None.

        Returns:
            A scalar: the mean squared error; with ``do_mask_loss_for_padding`` over the valid actions. Not
            finite if a value of the batch is not.

        Raises:
            KeyError: If an entry of the batch is missing.
            ValueError: If an entry, or the noise, has the wrong shape.
        """
        self.check_pixels(batch)
        action_BTA = self.normalizer.normalize(ACTION, self._actions(batch))
        if noise is None:
            noise = randn(tuple(action_BTA.shape), generator, self.device)
        if timesteps is None:
            device = self.device if generator is None else generator.device
            timesteps = self.process.draw_timesteps(len(action_BTA), generator, device)
        noise_BTA = self.starting_noise(noise, tuple(action_BTA.shape))
        kind = torch.float32 if self.process.is_flow else torch.long
        timesteps_B = torch.as_tensor(timesteps).to(self.device, kind)
        if crop_offsets is None:
            crop_offsets = self.draw_crop_offsets(len(action_BTA), generator)

        condition_BG = self.condition(batch, crop_offsets)
        noisy_action_BTA = self.process.add_noise(action_BTA, noise_BTA, timesteps_B)
        predicted_BTA = self.diffusion.unet(noisy_action_BTA, timesteps_B, condition_BG).float()
        target_BTA = self.process.target(action_BTA, noise_BTA, timesteps_B)
        if not self.config.do_mask_loss_for_padding:
            return F.mse_loss(predicted_BTA, target_BTA)
        valid_BT1 = self._value(batch, PAD).logical_not().unsqueeze(-1)
        error_BTA = F.mse_loss(predicted_BTA, target_BTA, reduction="none") * valid_BT1
        return error_BTA.sum() / (valid_BT1.sum() * self.action_dim).clamp(min=1)

    def predict_action(
        self,
        observation: Values,
        noise: Tensor | np.ndarray | None = None,
        generator: Generators = None,
        sampler: str | None = None,
        num_inference_steps: int | None = None,
        n_action_steps: int | None = None,
        known: Tensor | None = None,
        kept: Tensor | None = None,
        condition: Tensor | None = None,
        previous: Tensor | None = None,
        skipped_steps: int = 0,
    ) -> Tensor:
        """Predict the next actions to execute: (B, n_action_steps, A) in original units.

        Takes the arguments of :meth:`predict_horizon`, and ``n_action_steps`` to replace the configuration's.
        ``known`` (B, K, A) and ``kept`` (K,) or (B, K) begin with the next action; K is `available_actions`.
        So does ``previous`` (B, K, A).

        Raises:
            ConfigError: If the horizon has fewer actions, and as for :meth:`predict_horizon`.
        """
        executed = self.executed(n_action_steps)
        if known is not None and kept is not None:
            # The actions before the present were executed with other observations: they stay free.
            past = executed.start
            known, kept = F.pad(known, (0, 0, past, 0)), F.pad(kept, (past, 0))
        horizon_BTA = self.predict_horizon(
            observation,
            noise,
            generator,
            sampler,
            num_inference_steps,
            None,
            known,
            kept,
            condition,
            self.with_past(previous),
            skipped_steps,
        )
        return horizon_BTA[:, executed]

    def with_past(self, previous: Tensor | None) -> Tensor | None:
        """The horizon (B, T, A) to start from, of actions (B, K, A) that begin with the next one.

        The first of them stands for those before the present, which were executed.
        """
        if previous is None:
            return None
        return torch.cat([previous[:, :1].expand(-1, self.n_obs_steps - 1, -1), previous], dim=1)

    def executed(self, n_action_steps: int | None = None) -> slice:
        """The actions of a horizon that are executed; ``n_action_steps`` replaces the configuration's.

        Raises:
            ConfigError: If the horizon has fewer actions.
        """
        count = self.n_action_steps if n_action_steps is None else n_action_steps
        if not 1 <= count <= self.config.available_actions:
            remedy = f"Use 1 to {self.config.available_actions} (horizon - n_obs_steps + 1)."
            raise ConfigError(
                [Fault("policy.n_action_steps", f"{count} actions cannot be executed.", remedy)]
            )
        current = self.n_obs_steps - 1
        return slice(current, current + count)

    @torch.no_grad()
    def predict_horizon(
        self,
        observation: Values,
        noise: Tensor | np.ndarray | None = None,
        generator: Generators = None,
        sampler: str | None = None,
        num_inference_steps: int | None = None,
        watch: Callable[[Tensor, float], None] | None = None,
        known: Tensor | None = None,
        kept: Tensor | None = None,
        condition: Tensor | None = None,
        previous: Tensor | None = None,
        skipped_steps: int = 0,
    ) -> Tensor:
        """Predict the whole horizon, which starts ``n_obs_steps - 1`` steps ago.

        Crops are centred and BatchNorm uses its running statistics, whether or not the policy is in training
        mode.

        Args:
            observation: Raw values under LeRobot's names, (B, To, ...), as for :meth:`loss`.
            noise: (B, T, A) standard normal to start from; drawn if None.
            generator: One, or one per sample: then all of sample i's noise comes from generator i, and its
                actions do not depend on the rest of the batch.
            sampler: One of ``SAMPLERS``, or of ``FLOW_SAMPLERS`` for a flow; None: the configuration's.
            num_inference_steps: Denoising steps; None: the configuration's.
            watch: Receives the noisy actions (B, T, A), in original units, and their timestep before each
                denoising step.
            known: (B, T, A) in original units: actions that the prediction continues; see
                :meth:`NoiseProcess.denoise`.
            kept: (T,) or (B, T): weight of each of them, from 0 (free) to 1 (the prediction has it).
            condition: (B, G), encodings of the observation steps, flattened (:meth:`encode`): then
                ``observation`` is not looked at.
            previous: (B, T, A), the last horizon in original units, shifted to the present
                (`acceleration.shift_chunk`): a warm start.
            skipped_steps: With ``previous``, the first denoising steps, which it takes the place of.

        Returns:
            (B, T, A) in original units.

        Raises:
            ConfigError: If the sampler is unknown or cannot take this number of steps, or ``skipped_steps``
                leaves no step, or comes without ``previous``.
            KeyError: If an observation is missing.
            ValueError: If an observation or the noise has the wrong shape.
        """
        if condition is None:
            self.check_pixels(observation)
        count = num_inference_steps or self.config.inference_steps
        check_skipped(previous, skipped_steps, count)
        with self.evaluation():
            condition_BG = self.condition(observation) if condition is None else condition.to(self.device)
            shape = (len(condition_BG), self.horizon, self.action_dim)
            if noise is None:
                noise = randn(shape, generator, self.device)
            noise_BTA = self.starting_noise(noise, shape)

            def predict(noisy_action_BTA: Tensor, timestep: float) -> Tensor:
                timesteps_B = torch.full((shape[0],), timestep, device=self.device)
                return self.diffusion.unet(noisy_action_BTA, timesteps_B, condition_BG)

            action_BTA = self.process.denoise(
                predict,
                noise_BTA,
                sampler=self.config.inference_sampler if sampler is None else sampler,
                num_inference_steps=count,
                generator=generator,
                watch=None if watch is None else lambda noisy, t: watch(self._unscaled(noisy), t),
                known=self._known(known, kept, shape),
                warm=None if previous is None else WarmStart(self.scaled(previous, shape), skipped_steps),
            )
        return self._unscaled(action_BTA)

    def _known(self, known: Tensor | None, kept: Tensor | None, shape: tuple[int, ...]) -> Known | None:
        if known is None or kept is None:
            return None
        if tuple(known.shape) != shape or tuple(kept.shape) not in (shape[1:2], shape[:2]):
            raise ValueError(
                f"known actions have shape {tuple(known.shape)} and their weights {tuple(kept.shape)}, "
                f"expected {shape} and {shape[1:2]} or {shape[:2]}"
            )
        scaled_BTA = self.normalizer.normalize(ACTION, known.to(self.device, torch.float32))
        return Known(scaled_BTA, kept.to(self.device, torch.float32))

    @torch.no_grad()
    def encode(self, observation: Values) -> Tensor:
        """Encode observation steps one by one: (B, S, D), of which :meth:`predict_horizon` takes S = To.

        Crops are centred and BatchNorm uses its running statistics.

        Args:
            observation: Raw values, (B, S, ...), of any number of steps S.

        Raises:
            KeyError: If an observation is missing.
            ValueError: If an observation has the wrong shape.
        """
        self.check_pixels(observation)
        with self.evaluation():
            prepared = self.prepare(observation, any_steps=True)
            first = self._value(observation, self.features.inputs[0].name)
            return self._encoded(prepared, first.shape[1])

    def scaled(self, previous_BTA: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The last horizon in normalised units.

        Raises:
            ValueError: If it has another shape.
        """
        if tuple(previous_BTA.shape) != shape:
            raise ValueError(f"the previous horizon has shape {tuple(previous_BTA.shape)}, expected {shape}")
        return self.normalizer.normalize(ACTION, previous_BTA.to(self.device, torch.float32))

    def _unscaled(self, action_BTA: Tensor) -> Tensor:
        return self.normalizer.unnormalize(ACTION, action_BTA)

    def condition(self, observation: Values, crop_offsets: Tensor | None = None) -> Tensor:
        """The U-Net's condition on the observations: (B, G).

        Per observation step: state, the features of every camera, environment state.

        Args:
            observation: Raw values, (B, To, ...).
            crop_offsets: (B, S, 2) top and left of each sample's crop; None: centred.
        """
        return self.join(self.prepare(observation, crop_offsets))

    def prepare(
        self, observation: Values, crop_offsets: Tensor | None = None, *, any_steps: bool = False
    ) -> dict[str, Tensor]:
        """What the networks receive, by name: vectors (B, To, D) and images (N, C, H, W), normalised.

        Args:
            observation: Raw values, (B, To, ...).
            crop_offsets: (B, S, 2) top and left of each sample's crop; None: centred.
            any_steps: Whether there may be another number of observation steps than To.
        """
        cameras = {camera.name: number for number, camera in enumerate(self.features.cameras)}
        prepared = {}
        for feature in self.features.inputs:
            name = feature.name
            value = self._observed(observation, feature, any_steps=any_steps)
            if name in cameras:
                offsets = None if crop_offsets is None else crop_offsets[:, cameras[name]]
                prepared[name] = self._cropped(feature, value, offsets)
            else:
                prepared[name] = self.normalizer.normalize(name, value)
        return prepared

    def join(self, prepared: Mapping[str, Tensor]) -> Tensor:
        """The U-Net's condition (B, G) from what :meth:`prepare` returns."""
        return self._encoded(prepared, self.n_obs_steps).flatten(start_dim=1)

    def _encoded(self, prepared: Mapping[str, Tensor], steps: int) -> Tensor:
        """The condition of each of some observation steps, (B, steps, D)."""
        parts_BToD = []
        if STATE in prepared:
            parts_BToD.append(prepared[STATE])
        if self.features.cameras:
            images = [prepared[camera.name] for camera in self.features.cameras]
            parts_BToD.append(self._image_features(images, steps))
        if ENVIRONMENT_STATE in prepared:
            parts_BToD.append(prepared[ENVIRONMENT_STATE])
        return torch.cat(parts_BToD, dim=-1)

    def _image_features(self, images: list[Tensor], steps: int) -> Tensor:
        encoders = self.diffusion.encoders
        if len(encoders) == len(images):
            features = [encoder(image) for encoder, image in zip(encoders, images, strict=True)]
        else:
            features = list(encoders[0](torch.cat(images)).unflatten(0, (len(images), -1)))
        return torch.cat(features, dim=-1).reshape(-1, steps, sum(f.shape[-1] for f in features))

    def camera_images(
        self, camera: Feature, observation: Values, crop_offsets: Tensor | None = None
    ) -> Tensor:
        """An encoder's input from a camera: (N, C, H, W), resized, cropped, normalised.

        Args:
            camera: One of the policy's cameras.
            observation: Raw values, (B, To, C, H, W).
            crop_offsets: (B, 2) top and left; None: centred. All steps of a sample have the same crop, so
                that only the scene moves between them.
        """
        return self._cropped(camera, self._observed(observation, camera), crop_offsets)

    def _cropped(self, camera: Feature, images_BToCHW: Tensor, crop_offsets: Tensor | None) -> Tensor:
        seen = images_BToCHW.shape[1]
        images_NCHW = images_BToCHW.flatten(0, 1)
        size = _resized(self.config, camera)
        if tuple(images_NCHW.shape[-2:]) != size:
            floats = images_NCHW.float() / 255 if images_NCHW.dtype == torch.uint8 else images_NCHW
            images_NCHW = resize_images(floats, size)
        crop = self.config.crop_size(size)
        # Cropped as uint8 and before normalising: fewer bytes, the same values.
        if crop is not None and crop_offsets is not None:
            offsets_N2 = crop_offsets.unsqueeze(1).expand(-1, seen, -1).flatten(0, 1)
            images_NCHW = crop_images(images_NCHW, offsets_N2, crop)
        elif crop is not None:
            top, left = center_offset(size, crop)
            images_NCHW = images_NCHW[..., top : top + crop[0], left : left + crop[1]]
        return self.normalizer.normalize(camera.name, images_NCHW)

    def draw_crop_offsets(self, count: int, generator: torch.Generator | None) -> Tensor | None:
        """Draw offsets (B, S, 2) of a batch's random crops; None if crops are centred or there are none.

        They are drawn on the generator's device and are on the policy's then; a GPU is not waited for.
        """
        cameras = self.features.cameras
        if not (cameras and self.training and self.config.crop_is_random):
            return None
        size = _resized(self.config, cameras[0])
        crop = self.config.crop_size(size)
        if crop is None:
            return None
        if self.config.crop_per == "sample":
            return self._moved(draw_crop_offsets((count, len(cameras)), size, crop, generator))
        # LeRobot draws once for each call of an encoder.
        once = draw_crop_offsets((1, len(self.diffusion.encoders)), size, crop, generator)
        return self._moved(once).expand(count, len(cameras), 2)

    def _moved(self, drawn: Tensor) -> Tensor:
        """Numbers that were drawn, on the policy's device; a GPU takes them from pinned memory."""
        if self.device.type == "cuda" and drawn.device.type == "cpu":
            drawn = drawn.pin_memory()
        return drawn.to(self.device, non_blocking=True)

    def _value(self, batch: Values, name: str) -> Tensor:
        if name not in batch:
            raise KeyError(f"the batch lacks {name!r}; it has {', '.join(sorted(batch))}")
        return torch.as_tensor(batch[name]).to(self.device, non_blocking=True)

    def _observed(self, batch: Values, feature: Feature, *, any_steps: bool = False) -> Tensor:
        """An observation, (B, To, ...); images of any height and width."""
        value = self._value(batch, feature.name)
        steps = value.shape[1] if any_steps and value.ndim > 1 else self.n_obs_steps
        fixed = (steps, *feature.shape)
        free = ("H", "W") if feature.type is FeatureType.VISUAL else ()
        fixed = fixed[: len(fixed) - len(free)]
        if value.ndim != 1 + len(fixed) + len(free) or tuple(value.shape[1 : 1 + len(fixed)]) != fixed:
            expected = ", ".join(map(str, ("B", *fixed, *free)))
            raise ValueError(f"{feature.name} has shape {tuple(value.shape)}, expected ({expected})")
        return value

    def check_pixels(self, batch: Values) -> None:
        """Find images that were not divided by 255.

        It looks at values, so it is apart from :meth:`condition`, which can be traced and captured.

        Raises:
            KeyError: If a camera is missing.
            ValueError: If an image of floats has values above those of pixels in [0, 1].
        """
        for camera in self.features.cameras:
            value = self._value(batch, camera.name)
            if value.is_floating_point() and value.numel() and value.max() > LARGEST_PIXEL:
                largest = f"{float(value.max()):.4g}"
                raise ValueError(f"{camera.name} has values up to {largest}; give uint8, or floats in [0, 1]")

    def _actions(self, batch: Values) -> Tensor:
        value = self._value(batch, ACTION)
        if value.ndim != 3 or value.shape[-1] != self.action_dim:
            expected = f"(B, {self.horizon}, {self.action_dim})"
            raise ValueError(f"{ACTION} has shape {tuple(value.shape)}, expected {expected}")
        return value

    def starting_noise(self, noise: Tensor | np.ndarray, shape: tuple[int, ...]) -> Tensor:
        """Noise that the caller gave, on the policy's device.

        Raises:
            ValueError: If it has another shape.
        """
        value = torch.as_tensor(noise)
        if tuple(value.shape) != shape:
            raise ValueError(f"the noise has shape {tuple(value.shape)}, expected {shape}")
        return value.to(self.device, torch.float32)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """A context in which all modules are in evaluation mode."""
        in_training = [module for module in self.modules() if module.training]
        for module in in_training:
            module.training = False
        try:
            yield
        finally:
            for module in in_training:
                module.training = True


def build_policy(config: PolicyConfig, features: PolicyFeatures, statistics: Statistics) -> DiffusionPolicy:
    """Build a policy with new weights, drawn from torch's global generator.

    Args:
        config: The policy's configuration.
        features: What the policy sees and does.
        statistics: Of the training data; see :class:`Normalizer`.

    Raises:
        ConfigError: If the cameras' images do not fit the configuration.
        NormalizationError: If the statistics do not fit the features.
    """
    return assemble_policy(config, features, statistics, build_networks(config, features))


def build_networks(config: PolicyConfig, features: PolicyFeatures) -> Networks:
    """Build the networks of a policy with new weights, as :func:`build_policy` does."""
    encoder = _build_encoder(config, features)
    image_dim = 2 * config.spatial_softmax_num_keypoints * len(features.cameras)
    vectors = {f.name: f.shape[0] for f in features.inputs if f.name in (STATE, ENVIRONMENT_STATE)}
    unet = ConditionalUnet1d(
        action_dim=features.action_dim,
        global_cond_dim=config.n_obs_steps * (sum(vectors.values()) + image_dim),
        down_dims=config.down_dims,
        kernel_size=config.kernel_size,
        n_groups=config.n_groups,
        diffusion_step_embed_dim=config.diffusion_step_embed_dim,
        use_film_scale_modulation=config.use_film_scale_modulation,
    )
    return Networks(encoder, unet)


def assemble_policy(
    config: PolicyConfig, features: PolicyFeatures, statistics: Statistics, networks: Networks
) -> DiffusionPolicy:
    """Build a policy from existing networks; arguments and errors as for :func:`build_policy`."""
    modes = {
        FeatureType.VISUAL: config.normalization_visual,
        FeatureType.STATE: config.normalization_state,
        FeatureType.ENV: config.normalization_environment_state,
        FeatureType.ACTION: config.normalization_action,
    }
    process = NoiseProcess(
        noise_scheduler_type=config.noise_scheduler_type,
        num_train_timesteps=config.num_train_timesteps,
        beta_schedule=config.beta_schedule,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        prediction_type=config.prediction_type,
        clip_sample=config.clip_sample,
        clip_sample_range=config.clip_sample_range,
        timestep_spacing=config.timestep_spacing,
        time_sampling=config.time_sampling,
    )
    normalizer = Normalizer(features, statistics, modes)
    return DiffusionPolicy(config, features, networks, normalizer, process)


def _build_encoder(config: PolicyConfig, features: PolicyFeatures) -> RgbEncoder | nn.ModuleList | None:
    if not features.cameras:
        return None
    image_size = _encoded_size(config, features.cameras)

    def encoder() -> RgbEncoder:
        return RgbEncoder(
            vision_backbone=config.vision_backbone,
            pretrained_backbone_weights=config.pretrained_backbone_weights,
            use_group_norm=config.use_group_norm,
            num_keypoints=config.spatial_softmax_num_keypoints,
            image_size=image_size,
        )

    if config.use_separate_rgb_encoder_per_camera:
        return nn.ModuleList([encoder() for _ in features.cameras])
    return encoder()


def _resized(config: PolicyConfig, camera: Feature) -> tuple[int, int]:
    """(height, width) of a camera's images after resizing."""
    if config.resize_shape is not None:
        return (config.resize_shape[0], config.resize_shape[1])
    return (camera.shape[1], camera.shape[2])


def _encoded_size(config: PolicyConfig, cameras: tuple[Feature, ...]) -> tuple[int, int]:
    """(height, width) of the images that the encoders get.

    Raises:
        ConfigError: If the cameras differ in size, or are smaller than the crop.
    """
    sizes = {camera.name: _resized(config, camera) for camera in cameras}
    listed = ", ".join(f"{name} {height}×{width}" for name, (height, width) in sizes.items())
    if len(set(sizes.values())) > 1:
        remedy = "Set policy.resize_shape: [height, width] to resize every camera to one size."
        raise ConfigError([Fault("policy.resize_shape", f"the cameras differ in size ({listed}).", remedy)])
    size = next(iter(sizes.values()))
    crop = config.crop_size(size)
    if crop is None:
        return size
    if crop[0] > size[0] or crop[1] > size[1]:
        problem = f"{crop[0]}×{crop[1]} is larger than the images ({listed})."
        raise ConfigError([Fault("policy.crop_shape", problem, "The crop must fit into the image.")])
    return crop
