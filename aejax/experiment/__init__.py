"""Fit, evaluate, compare and recommend: what the command line, the scripts and the README's ten lines all call."""

from aejax.experiment.baskets import read_baskets, with_baskets
from aejax.experiment.comparing import Comparison, Trial, compare, compare_settings, own_settings, write_comparison
from aejax.experiment.fitting import Fitted, Tested, evaluate_test, fit, fit_model, metrics_json
from aejax.experiment.forgetting import forget
from aejax.experiment.judging import hindsight
from aejax.experiment.loading import Run, evaluate_run, known_on, largest_difference, load_run
from aejax.experiment.preparing import Prepared, default_run, on_device, prepare, prepare_dataset, recognise, titles
from aejax.experiment.production import FIGURES_OF, refit
from aejax.experiment.reading import ids_by_address, read_addresses, read_customers, read_excluded, read_stock
from aejax.experiment.recommending import Request, every_sku, recommend
from aejax.experiment.tuning import tune
from aejax.experiment.updating import Updated, update
from aejax.experiment.writing import Layout, holdout_path, manifest_path, write_recommendations

__all__ = [
    "FIGURES_OF",
    "Comparison",
    "Fitted",
    "Layout",
    "Prepared",
    "Request",
    "Run",
    "Tested",
    "Trial",
    "Updated",
    "compare",
    "compare_settings",
    "default_run",
    "evaluate_run",
    "evaluate_test",
    "every_sku",
    "fit",
    "fit_model",
    "forget",
    "hindsight",
    "holdout_path",
    "ids_by_address",
    "known_on",
    "largest_difference",
    "load_run",
    "manifest_path",
    "metrics_json",
    "on_device",
    "own_settings",
    "prepare",
    "prepare_dataset",
    "read_addresses",
    "read_baskets",
    "read_customers",
    "read_excluded",
    "read_stock",
    "recognise",
    "recommend",
    "refit",
    "titles",
    "tune",
    "update",
    "with_baskets",
    "write_comparison",
    "write_recommendations",
]
