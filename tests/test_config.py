from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aejax.config import (
    PROTOCOLS,
    REPEAT_PROTOCOLS,
    DataConfig,
    RunConfig,
    SplitConfig,
    TrainingConfig,
)
from aejax.errors import InputError

shares = st.floats(0, 0.5, exclude_min=True, exclude_max=True)
splits = st.one_of(
    st.builds(SplitConfig, st.sampled_from([None, *PROTOCOLS]), seed=st.integers(0, 2**31 - 1)),
    st.builds(SplitConfig, st.sampled_from([None, "time"]), shares),
    st.builds(SplitConfig, st.sampled_from([None, *REPEAT_PROTOCOLS]), repeat=st.just("include")),
    st.builds(SplitConfig, st.sampled_from([None, "time"]), cut=st.dates().map(str)),
)
configs = st.builds(
    RunConfig,
    data=st.builds(
        DataConfig,
        st.text(),
        st.none() | st.integers(1, 1000),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
    ),
    split=splits,
    training=st.builds(TrainingConfig, st.integers(0, 2**31 - 1), st.sampled_from([None, "cpu", "gpu", "tpu"])),
    model=st.text(),
    settings=st.dictionaries(
        st.text(), st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.lists(st.integers())
    ),
)
CONFIG = RunConfig(DataConfig("shop"), SplitConfig("time"), TrainingConfig(), "ae", {"epochs": 3})


@given(configs)
def test_a_config_survives_json(config):
    assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_json_holds_every_default():
    plain = CONFIG.to_json()
    for name, kind in (("data", DataConfig), ("split", SplitConfig), ("training", TrainingConfig)):
        assert list(plain[name]) == [field.name for field in dataclasses.fields(kind)]


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.model = "vae"


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (DataConfig, {"path": "d", "min_customers": 0}, "--min-customers is 0; expected 1 or more"),
        (
            SplitConfig,
            {"protocol": "tme"},
            f'--split is "tme"; did you mean "time"? Known: {", ".join(sorted(PROTOCOLS))}',
        ),
        (SplitConfig, {"test_share": 0.0}, "--test-share is 0.0; expected more than 0 and less than 0.5"),
        (SplitConfig, {"test_share": 0.5}, "--test-share is 0.5; expected more than 0 and less than 0.5"),
        (SplitConfig, {"test_share": float("nan")}, "--test-share is nan; expected more than 0 and less than 0.5"),
        (
            SplitConfig,
            {"protocol": "users", "test_share": 0.2},
            "--test-share belongs to --split time, not to users",
        ),
        (SplitConfig, {"repeat": "both"}, '--repeat is "both"; expected "exclude" or "include"'),
        *(
            (
                SplitConfig,
                {"protocol": protocol, "repeat": "include"},
                f"--repeat include has no meaning under --split {protocol}, whose targets are never in the inputs; "
                "use one of last-order, time, predefined",
            )
            for protocol in PROTOCOLS
            if protocol not in REPEAT_PROTOCOLS
        ),
        *(
            (
                SplitConfig,
                {"protocol": protocol, "cut": "2024-05-01"},
                f"--cut 2024-05-01 belongs to --split time, not to --split {protocol}",
            )
            for protocol in PROTOCOLS
            if protocol != "time"
        ),
        (SplitConfig, {"cut": "last May"}, '--cut is "last May"; expected a date such as 2024-05-01'),
        (
            SplitConfig,
            {"cut": "9999-12-31T23:59-14:00"},
            '--cut is "9999-12-31T23:59-14:00"; expected a date such as 2024-05-01',
        ),
        (SplitConfig, {"cut": "2024-03-01+02:00"}, '--cut is "2024-03-01+02:00"; expected a date such as 2024-05-01'),
        (SplitConfig, {"cut": "2024-02-30"}, '--cut is "2024-02-30"; expected a date such as 2024-05-01'),
        (TrainingConfig, {"device": "abacus"}, '--device is "abacus"; expected cpu, gpu or tpu'),
        (TrainingConfig, {"seed": -1}, "--seed is -1; expected 0 to 2147483647"),
        (TrainingConfig, {"seed": 2**31}, "--seed is 2147483648; expected 0 to 2147483647"),
    ],
)
def test_a_wrong_value_is_named_with_its_remedy(kind, arguments, message):
    with pytest.raises(InputError) as caught:
        kind(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize("section", ["data", "split", "training", "model", "settings"])
def test_a_missing_section_is_another_version(section):
    plain = CONFIG.to_json()
    del plain[section]
    with pytest.raises(InputError, match=f"not of this version of aejax: .*{section}"):
        RunConfig.from_json(plain)


@pytest.mark.parametrize("section", ["data", "split", "training"])
def test_an_unknown_key_is_another_version(section):
    plain = CONFIG.to_json()
    plain[section]["colour"] = "red"
    with pytest.raises(InputError, match=r"not of this version of aejax: .*colour"):
        RunConfig.from_json(plain)


def test_a_stored_config_is_validated_like_a_new_one():
    plain = CONFIG.to_json()
    plain["split"]["test_share"] = 0.9
    with pytest.raises(InputError, match=r"--test-share is 0\.9"):
        RunConfig.from_json(plain)
