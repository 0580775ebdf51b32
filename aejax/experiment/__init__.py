"""Fit, evaluate, compare and recommend: what the command line, the scripts and the README's ten lines all call."""

from aejax.experiment.comparing import Comparison, Trial, compare, compare_settings, own_settings, write_comparison
from aejax.experiment.fitting import Fitted, Tested, evaluate_test, fit, fit_model, metrics_json
from aejax.experiment.loading import Run, evaluate_run, known_on, largest_difference, load_run
from aejax.experiment.preparing import Prepared, default_run, on_device, prepare, prepare_dataset, recognise, titles
from aejax.experiment.reading import read_customers, read_excluded, read_stock
from aejax.experiment.recommending import (
    Layout,
    Request,
    every_sku,
    holdout_path,
    manifest_path,
    recommend,
    write_recommendations,
)
from aejax.experiment.tuning import tune

__all__ = [
    "Comparison",
    "Fitted",
    "Layout",
    "Prepared",
    "Request",
    "Run",
    "Tested",
    "Trial",
    "compare",
    "compare_settings",
    "default_run",
    "evaluate_run",
    "evaluate_test",
    "every_sku",
    "fit",
    "fit_model",
    "holdout_path",
    "known_on",
    "largest_difference",
    "load_run",
    "manifest_path",
    "metrics_json",
    "on_device",
    "own_settings",
    "prepare",
    "prepare_dataset",
    "read_customers",
    "read_excluded",
    "read_stock",
    "recognise",
    "recommend",
    "titles",
    "tune",
    "write_comparison",
    "write_recommendations",
]
