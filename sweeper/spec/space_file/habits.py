"""The words of other tools and what they are called here: tables only, read by `translate`.

The tools are W&B sweeps, Hydra with its Optuna sweeper, Optuna, Ray Tune, LeRobot, and the repositories of
papers about diffusion policies. Words are separated by spaces, in lower case. A name matches a whole
dotted name or the end of one.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "FIELDS",
    "FUNCTIONS",
    "HOURS",
    "METRICS",
    "NOT_HERE",
    "NOT_IN_THE_POLICY",
    "NO_METRIC",
    "SETTINGS_OF_OTHERS",
    "VALUES",
    "WRAPPERS",
    "by_word",
]

FIELDS: Mapping[str, str] = {
    "dataset.root": "data_root dataset_root dataset_path data_dir dataset_dir local_files_only.root",
    "dataset.repo_id": "dataset_repo_id dataset_name hf_dataset dataset.name dataset.id",
    "dataset.episodes": "dataset.episode_indices dataset.train_episodes episode_ids",
    "dataset.holdout_fraction": (
        "val_ratio val_fraction val_split validation_split validation_fraction eval_split test_size"
    ),
    "dataset.fraction": "data_fraction dataset_fraction train_data_fraction",
    "dataset.features": "rename_map",
    "dataset.split_seed": "task.dataset.seed",
    "policy.path": (
        "policy.pretrained_path pretrained_path pretrained_policy_path pretrained_model_path init_from"
    ),
    "policy.n_obs_steps": (
        "obs_horizon observation_horizon n_obs num_obs num_obs_steps obs_steps obs_history "
        "history_length frame_stack to"
    ),
    "policy.horizon": (
        "pred_horizon prediction_horizon n_pred_steps pred_steps chunk_size chunk_length "
        "action_chunk_size horizon_length sequence_length tp"
    ),
    "policy.n_action_steps": (
        "action_horizon act_horizon exec_horizon execution_horizon n_act_steps num_action_steps n_actions "
        "action_steps n_exec_steps ta"
    ),
    "policy.num_train_timesteps": (
        "num_diffusion_iters num_diffusion_steps n_diffusion_steps diffusion_steps "
        "num_train_diffusion_steps diffusion_timesteps n_timesteps noise_scheduler.num_train_timesteps "
        "num_noise_steps"
    ),
    "policy.num_inference_steps": (
        "num_inference_steps num_inference_timesteps num_inference_iters n_inference_steps inference_steps "
        "num_denoising_steps denoising_steps ddim_steps num_ddim_steps num_inference_diffusion_steps"
    ),
    "policy.noise_scheduler_type": (
        "noise_scheduler noise_scheduler._target_ scheduler_type diffusion_scheduler"
    ),
    "policy.beta_schedule": "noise_schedule noise_scheduler.beta_schedule schedule_type",
    "policy.prediction_type": "noise_scheduler.prediction_type pred_type parameterization",
    "policy.clip_sample": "noise_scheduler.clip_sample",
    "policy.vision_backbone": (
        "vision_encoder image_encoder visual_encoder backbone encoder_name vision_model"
    ),
    "policy.pretrained_backbone_weights": "pretrained_encoder backbone_weights encoder_weights",
    "policy.resize_shape": "image_size img_size resize image_shape img_shape",
    "policy.crop_shape": "crop_size random_crop crop",
    "policy.crop_is_random": "random_crop_augmentation",
    "policy.use_film_scale_modulation": "cond_predict_scale use_film_scale",
    "policy.use_separate_rgb_encoder_per_camera": "separate_encoders",
    "policy.spatial_softmax_num_keypoints": "num_kp num_keypoints n_keypoints",
    "policy.diffusion_step_embed_dim": "dsed step_embed_dim time_embed_dim timestep_embed_dim",
    "policy.down_dims": "unet_dims unet_down_dims unet_channels channels",
    "policy.use_group_norm": "replace_bn_with_gn",
    "policy.do_mask_loss_for_padding": "mask_loss_for_padding mask_padding",
    "policy.normalization_visual": "normalization_mapping.visual",
    "policy.normalization_state": "normalization_mapping.state",
    "policy.normalization_environment_state": "normalization_mapping.env",
    "policy.normalization_action": "normalization_mapping.action",
    "optimizer.name": "optimizer.type optimizer._target_ optim optimizer optimizer_name opt",
    "optimizer.lr": "learning_rate init_lr base_lr peak_lr max_lr optim.lr learningrate optimizer_lr",
    "optimizer.weight_decay": "wd l2 decay optim.weight_decay",
    "optimizer.betas": "adam_betas optim.betas",
    "optimizer.eps": "adam_eps adam_epsilon",
    "optimizer.grad_clip_norm": "grad_clip max_grad_norm clip_grad_norm gradient_clip_val grad_norm_clip",
    "lr_scheduler.name": (
        "scheduler.name scheduler.type scheduler lr_scheduler lr_schedule lr_scheduler_type scheduler_name"
    ),
    "lr_scheduler.warmup_steps": (
        "num_warmup_steps lr_warmup_steps n_warmup_steps warmup lr_warmup warmup_iters"
    ),
    "ema.enabled": "use_ema ema.use with_ema ema",
    "ema.max_decay": "ema_decay ema.decay ema.max_value ema_rate ema_max_decay",
    "ema.power": "ema_power",
    "ema.inv_gamma": "ema_inv_gamma",
    "train.steps": (
        "max_steps num_steps n_steps total_steps train_steps training_steps num_train_steps "
        "num_training_steps max_iters num_iterations max_train_steps offline_steps training.steps "
        "training.offline_steps"
    ),
    "train.batch_size": (
        "bs train_batch_size batchsize dataloader.batch_size training.batch_size "
        "per_device_train_batch_size minibatch_size"
    ),
    "train.gradient_accumulation_steps": (
        "gradient_accumulate_every grad_accum accumulate_grad_batches grad_accum_steps accumulation_steps"
    ),
    "train.precision": "use_amp amp mixed_precision precision dtype bf16 use_bf16",
    "train.compile": "compile torch_compile use_compile compile_model",
    "train.seed": "random_seed rng_seed seed_everything training.seed",
    "train.log_every": (
        "log_freq log_every log_interval logging_steps log_every_n_steps training.log_freq print_freq"
    ),
    "train.eval_every": (
        "eval_freq eval_every eval_interval eval_steps val_freq val_interval env_eval_freq "
        "val_check_interval evaluation_interval"
    ),
    "train.checkpoint_every": (
        "save_freq save_every save_interval save_steps checkpoint_freq checkpoint_interval ckpt_freq "
        "ckpt_every save_period"
    ),
    "rollout.env": "env.task env env_name env_id environment gym_id simulator env.name",
    "rollout.episodes": (
        "n_eval_episodes num_eval_episodes eval_episodes env_runner.n_test n_rollouts num_rollouts "
        "eval.num_episodes eval.episodes"
    ),
    "rollout.parallel": "eval.batch_size n_envs num_envs env_runner.n_envs eval_batch_size",
    "rollout.seed": "test_start_seed eval_seed start_seed",
    "rollout.max_steps": (
        "env_runner.max_steps env.episode_length max_episode_steps episode_length rollout_horizon"
    ),
    "rollout.control": "rollout.control.mode rollout.control_mode rollout.mode control_mode control.mode",
    "rollout.latency_ms": (
        "rollout.control.latency_ms rollout.control_latency_ms rollout.latency latency_ms control.latency_ms "
        "inference_delay inference_latency"
    ),
    "rollout.replan": "rollout.control.replan rollout.control_replan chunk_size_threshold",
    "rollout.video_episodes": "max_episodes_rendered n_test_vis",
}
"""For each field the names that other tools have for the same thing."""

SETTINGS_OF_OTHERS: Mapping[str, str] = {
    "name": "study_name job_name experiment_name run_name sweep_name exp_name run.name",
    "search.method": (
        "method sampler sampler._target_ algorithm search_alg search_algorithm algo strategy "
        "search_strategy tuner suggester search_alg.type sampler.type sampler.name search.type "
        "search.algorithm search.sampler search.name"
    ),
    "search.seed": "sampler.seed sweeper.seed",
    "search.startup_trials": (
        "n_startup_trials sampler.n_startup_trials startup_trials n_initial_points num_random_trials "
        "random_state.n_initial_points num_initialization_trials"
    ),
    "search.options.multivariate": "sampler.multivariate",
    "search.options.group": "sampler.group",
    "search.options.n_ei_candidates": "n_ei_candidates",
    "search.options.constant_liar": "constant_liar",
    "budget.trials": (
        "run_cap n_trials num_trials trials max_trials num_samples count max_trial_num max_trial_number "
        "n_runs num_runs max_evals search.trials max_runs runcap"
    ),
    "budget.hours": "hours max_hours timeout timeout_s time_budget_s max_duration_s timeout_min",
    "budget.max_failed": "max_failed max_failed_trials max_failed_trial_count",
    "budget.stagnation": "stagnation max_stagnation_trials",
    "resources.max_concurrent": (
        "n_jobs max_concurrent_trials max_concurrent max_parallel parallelism trial_concurrency "
        "num_parallel_trials parallel_trials concurrency max_parallel_trials"
    ),
    "resources.workers": (
        "num_gpus num_processes nproc_per_node n_gpus gpus world_size num_workers_per_trial"
    ),
    "resources.gpu_per_worker": (
        "policy.device device gpu gpus_per_trial resources_per_trial.gpu gpu_per_trial training.device"
    ),
    "resources.cpu_per_worker": "cpus_per_trial resources_per_trial.cpu cpu_per_trial",
    "failures.retries": "retries max_failures failure_config.max_failures max_retries",
    "keep.trials": "num_to_keep checkpoint_config.num_to_keep save_top_k save_total_limit checkpoint.topk.k",
    "tracking.experiment": (
        "project wandb.project logging.project wandb_project project_name mlflow.experiment_name "
        "mlflow_experiment experiment"
    ),
    "tracking.uri": "tracking_uri mlflow_uri mlflow_tracking_uri mlflow.tracking_uri mlflow.uri",
    "metric.goal": "direction directions mode optimization goal objective_direction optimize_mode",
    "metric.name": (
        "metric_name tune_config.metric monitor objective objective_metric objective_metric_name "
        "optimized_metric"
    ),
    "early_stop.method": "early_stop.type early_stop.name",
    "early_stop.min_steps": "early_stop.grace_period early_stop.min_resource early_stop.n_warmup_steps",
    "early_stop.reduction": "early_stop.reduction_factor early_stop.eta",
    "early_stop": "early_terminate tune_config.scheduler pruner early_stopping pruning early_stop_config",
}
"""For each setting of a section the names of other tools. `early_stop` is translated as a whole."""

VALUES: Mapping[str, Mapping[object, str]] = {
    "search.method": {
        "tpe": (
            "bayes bayesian bayesian_optimization bo optuna hyperopt tpesampler "
            "optuna.samplers.tpesampler motpe optunasearch nsgaii optuna.samplers.nsgaiisampler "
            "nsgaiisampler hyperoptsearch anneal"
        ),
        "random": (
            "randomsampler optuna.samplers.randomsampler random_search randomsearch qmc sobol "
            "optuna.samplers.qmcsampler qmcsampler halton"
        ),
        "grid": (
            "grid_search gridsearch gridsampler optuna.samplers.gridsampler exhaustive bruteforce "
            "optuna.samplers.bruteforcesampler"
        ),
        "cmaes": "cma-es cma_es cma cmaessampler optuna.samplers.cmaessampler",
        "gp": "gpsampler optuna.samplers.gpsampler gaussian_process botorch botorchsampler",
    },
    "early_stop.method": {
        # "hyperband" of W&B and Ray's AsyncHyperBand compare at rungs without brackets, as ASHA does.
        "asha": "hyperband asynchyperband ashascheduler sha bohb asynchyperbandscheduler",
        "hyperband": "hyperbandpruner optuna.pruners.hyperbandpruner",
        "successive_halving": (
            "successivehalving successivehalvingpruner optuna.pruners.successivehalvingpruner"
        ),
        "percentile": "percentilepruner optuna.pruners.percentilepruner",
        "median": (
            "medianpruner optuna.pruners.medianpruner median_stopping medianstopping medianstoppingrule"
        ),
        "patient": "patientpruner optuna.pruners.patientpruner",
        "wilcoxon": "wilcoxonpruner optuna.pruners.wilcoxonpruner",
    },
    "metric.goal": {
        "minimize": "min minimise minimum lower studydirection.minimize",
        "maximize": "max maximise maximum higher studydirection.maximize",
    },
    "train.precision": {
        "bf16": "true bfloat16 bf16-mixed",
        "fp32": "false no none 32 float32 32-true",
        "fp16": "16 float16 half 16-mixed",
    },
    "optimizer.name": {
        "adamw": "torch.optim.adamw",
        "adam": "torch.optim.adam",
    },
    "lr_scheduler.name": {
        "cosine": "diffuser cosine_decay cosine_annealing",
        "constant": "constant_with_warmup none",
    },
    "policy.noise_scheduler_type": {
        "DDPM": (
            "diffusers.schedulers.scheduling_ddpm.ddpmscheduler diffusers.ddpmscheduler ddpmscheduler ddpm"
        ),
        "DDIM": (
            "diffusers.schedulers.scheduling_ddim.ddimscheduler diffusers.ddimscheduler ddimscheduler ddim"
        ),
    },
    "policy.prediction_type": {
        "epsilon": "eps noise",
        "sample": "x0 x_start",
        "v_prediction": "v velocity",
        "flow": "flow_prediction flow_matching flow-matching rectified_flow cfm",
    },
    "policy.beta_schedule": {
        "squaredcos_cap_v2": "cosine squaredcos",
    },
    "rollout.env": {
        "gym_pusht/PushT-v0": "pusht pusht-v0",
    },
    "resources.gpu_per_worker": {
        1: "cuda cuda:0 gpu",
        0: "cpu",
    },
    "resources.max_concurrent": {
        "auto": "-1",
    },
}
"""Values of other tools, in lower case, for a setting or a field, and ours."""

HOURS: Mapping[str, float] = {
    "timeout": 3600.0,
    "timeout_s": 3600.0,
    "time_budget_s": 3600.0,
    "max_duration_s": 3600.0,
    "timeout_min": 60.0,
}
"""How many units of a setting that limits the time are an hour."""

METRICS: Mapping[str, str] = {
    "rollout/success_rate": (
        "eval/pc_success pc_success eval_pc_success eval/success_rate success_rate eval/success success "
        "test/success_rate eval_success_rate test_success_rate eval/avg_success test_mean_success"
    ),
    "rollout/avg_max_reward": (
        "test_mean_score test/mean_score eval/avg_max_reward avg_max_reward mean_score score test_score "
        "max_reward"
    ),
    "rollout/avg_sum_reward": (
        "eval/avg_sum_reward avg_sum_reward eval/mean_reward mean_reward episode_reward_mean "
        "eval/avg_reward avg_reward reward return"
    ),
    "eval/action_mse": (
        "train_action_mse_error action_mse action_mse_error val/action_mse val_action_mse eval/mse mse"
    ),
    "train/loss": "loss train_loss train/l2_loss training_loss",
    "train/grad_norm": "grad_norm grdn train/grdn",
    "train/lr": "lr",
}
"""For each metric its names in other tools."""

NO_METRIC: Mapping[str, str] = {
    "eval/action_mse": (
        "val_loss val/loss validation_loss eval/loss eval_loss test_loss test/loss valid_loss"
    ),
}
"""Metrics that serve the same purpose as these of other tools, without being the same."""

WRAPPERS = (
    "args cfg config hydra hyperparameters parameters params run_config search_space space sweeper "
    "trainer training tune_config"
)
"""Mappings of other tools that hold fields or settings, and have no meaning themselves."""

NOT_HERE: Mapping[str, str] = {
    "program": "Remove it: `trainable` is what is trained.",
    "command": "Remove it: `sweeper launch FILE` starts every trial itself.",
    "entity wandb.entity": "Remove it: MLflow has no entities. `tracking: {uri: ...}` names the server.",
    "description wandb.notes": "Remove it, or write it as a comment, after `#`.",
    "version": "Remove it: a space file has no version.",
    "metric.target": "Remove it: a sweep does not end at a value, but when its `budget` is used up.",
    "imageuri hydra.job cudnn_deterministic n_latency_steps": "Remove it.",
    "image_uri": (
        "Remove it: `sweeper launch FILE --address` runs the sweep on a cluster (docs/clusters.md)."
    ),
    "job": "Remove it: `sweeper launch FILE` starts the trials.",
    "queue": "Remove it: a cluster is named on the command line (docs/clusters.md).",
    "wandb.enable wandb.disable_artifact": "Remove it: MLflow records every sweep.",
    "wandb.mode logging.mode": "Remove it: MLflow records every sweep, without a network too.",
    "wandb.run_id": "Remove it: MLflow numbers its runs itself.",
    "wandb use_wandb report_to": "Remove it: MLflow records every sweep (`tracking`).",
    "defaults": "Remove it: a space file is complete in itself.",
    "storage": "Remove it: the study is study.db in the sweep's folder.",
    "load_if_exists resume": "Remove it: `sweeper resume NAME` continues a sweep.",
    "max_failure_rate": "Remove it: `budget: {max_failed: 5}` ends a sweep after so many failed trials.",
    "custom_search_space": "Remove it: write the parameters under `parameters`.",
    "hydra.sweeper": "Remove it: `search` says how trials are chosen.",
    "hydra.mode": "Remove it: every parameter that is listed is searched.",
    "hydra.run.dir hydra.sweep.dir output_dir": (
        "Remove it: a sweep is recorded in sweeps/NAME (`--sweeps FOLDER` for another place)."
    ),
    "hydra.sweep.subdir": "Remove it: trials are numbered.",
    "hydra.launcher hydra/launcher": "Remove it: Ray starts the trials (`resources`).",
    "save_checkpoint": "Remove it: trials are always kept resumable. `keep` says which checkpoints stay.",
}
"""What other tools can set and this one cannot, and why, or what to do instead."""

NOT_IN_THE_POLICY: Mapping[str, str] = {
    "fp16": "Write `train.precision: fp16`, or bf16 or fp32.",
    "policy.type": "Remove it: only Diffusion Policies are trained here (`trainable: diffusion_policy`).",
    "drop_n_last_frames": "Remove it: it follows from horizon, n_obs_steps and n_action_steps.",
    "env.fps env.features env.features_map env.obs_type env.render_mode env.visualization_width "
    "env.visualization_height env.observation_width env.observation_height env.max_parallel_tasks "
    "env.disable_env_checker": "Remove it: `rollout.env` names the simulator, which has its own settings.",
    "num_workers dataloader_num_workers prefetch_factor pin_memory persistent_workers "
    "dataloader_multiprocessing_context": (
        "Remove it: frames are decoded once per machine, so no loading processes are needed."
    ),
    "video_backend": "Remove it: frames are decoded once per machine, into a shared file.",
    "dataset.streaming": "Remove it: a dataset is fetched once, and its frames are decoded once.",
    "use_policy_training_preset": "Remove it: the defaults are in docs/configuration.md.",
    "push_to_hub policy.repo_id policy.private policy.tags policy.license": (
        "Remove it: `sweeper export NAME:TRIAL --to FOLDER` writes the policy."
    ),
    "use_async_envs": "Remove it: `rollout.processes` is the number of processes that step the simulators.",
    "input_features": (
        "Remove it: the dataset has the features. `dataset.observations` selects some of them."
    ),
    "output_features": "Remove it: the dataset has the features.",
    "image_transforms image_transforms.enable image_transforms.max_num_transforms "
    "image_transforms.random_order image_transforms.tfs": (
        "Write the changes of the pictures as `augment.*` (docs/training.md#image-augmentation)."
    ),
    "num_epochs n_epochs epochs max_epochs": (
        "Training is counted in optimiser steps: `train.steps` is the number of epochs × frames / batch size."
    ),
    "val_every rollout_every": (
        "Evaluations are counted in optimiser steps, not in epochs: `train.eval_every`."
    ),
    "warmup_ratio": "The warmup is counted in optimiser steps: `lr_scheduler.warmup_steps`.",
    "zarr_path hdf5_path": (
        "`sweeper` reads LeRobot datasets (docs/datasets.md): name one as `dataset.root`."
    ),
    "obs_as_global_cond obs_as_local_cond": "Remove it: observations always condition the whole U-Net.",
    "temporal_ensemble_coeff kl_weight": "Remove it: it belongs to ACT.",
    "dim_model hidden_dim n_heads n_layers": (
        "Remove it: the network is a U-Net, and `policy.down_dims` is its width."
    ),
}
"""The same for fields: what other trainings have and `diffusion_policy` does not."""

FUNCTIONS: Mapping[str, str] = {
    "values": "choice categorical suggest_categorical grid_search",
    "": "sample_from glob",
    "range": "range",
    "interval": "interval uniform suggest_float suggest_uniform float int suggest_int uniformint",
    "log": "loguniform log_uniform suggest_loguniform reciprocal qloguniform",
    "step": "quniform suggest_discrete_uniform qrandint",
    "below": "randint",
    "log_below": "lograndint",
}
"""Functions by which other tools write a parameter, and the form that they stand for."""


def by_word(table: Mapping[str, str]) -> Mapping[str, str]:
    """Each word of other tools in a table, and ours."""
    return {word: ours for ours, words in table.items() for word in words.split()}
