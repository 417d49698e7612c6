"""The seam between a trainable and the caller that runs it. Standard library only.

A *trainable* is something that can be trained with a flat configuration of dotted names
(``{"policy.horizon": 16, ...}``) and reports its progress. The service knows a trainable only through
this room; the trainable knows nothing of the service.

The room re-exports its files, because trainables of other packages import from here:

- ``fields``: fields of a configuration, what is wrong with a value, and metrics.
- ``training``: what a trainable is, what it reports, and what it may be able to do beside training.
- ``datasets``: what a trainable may know about datasets: their examination, their repair, and caches.
- ``policies``: what a trainable may do with a trained policy: open, judge, time, export, bundle and serve it.
"""

from trainables.interface.datasets import (
    CacheEntry,
    CachesData,
    Change,
    DatasetExaminer,
    DatasetRepairer,
    Examination,
    Finding,
    Repair,
    Severity,
)
from trainables.interface.fields import (
    ENVIRONMENT,
    EVAL_EVERY,
    LOG_EVERY,
    STEPS,
    ConfigError,
    Fault,
    FieldInfo,
    Metric,
    Phase,
    TrainableError,
    is_url,
)
from trainables.interface.policies import (
    BenchmarksPolicies,
    BundlesPolicies,
    EvaluatesPolicies,
    EvaluationContext,
    ExportsCheckpoints,
    ExportsFormats,
    FormatOptions,
    FormatParts,
    FormatPrecision,
    GivesPolicies,
    InspectablePolicy,
    OpenPolicy,
    RunningServer,
    ServablePolicy,
    ServeOptions,
)
from trainables.interface.training import (
    CanReduceMemory,
    DerivedNumber,
    DerivesNumbers,
    EstimatesGpuNeed,
    EstimatesMemory,
    GpuNeed,
    HasPresets,
    NamesPlaces,
    Proposal,
    ProposedField,
    ProposesSpaces,
    Report,
    SlimsCheckpoints,
    StartsFromCheckpoints,
    Trainable,
    TrainContext,
    silent,
)

__all__ = [
    "ENVIRONMENT",
    "EVAL_EVERY",
    "LOG_EVERY",
    "STEPS",
    "BenchmarksPolicies",
    "BundlesPolicies",
    "CacheEntry",
    "CachesData",
    "CanReduceMemory",
    "Change",
    "ConfigError",
    "DatasetExaminer",
    "DatasetRepairer",
    "DerivedNumber",
    "DerivesNumbers",
    "EstimatesGpuNeed",
    "EstimatesMemory",
    "EvaluatesPolicies",
    "EvaluationContext",
    "Examination",
    "ExportsCheckpoints",
    "ExportsFormats",
    "Fault",
    "FieldInfo",
    "Finding",
    "FormatOptions",
    "FormatParts",
    "FormatPrecision",
    "GivesPolicies",
    "GpuNeed",
    "HasPresets",
    "InspectablePolicy",
    "Metric",
    "NamesPlaces",
    "OpenPolicy",
    "Phase",
    "Proposal",
    "ProposedField",
    "ProposesSpaces",
    "Repair",
    "Report",
    "RunningServer",
    "ServablePolicy",
    "ServeOptions",
    "Severity",
    "SlimsCheckpoints",
    "StartsFromCheckpoints",
    "TrainContext",
    "Trainable",
    "TrainableError",
    "is_url",
    "silent",
]
